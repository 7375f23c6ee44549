"""The fault `whatsapp_flap`: connected links lose WhatsApp and have it back, over and over. Simulated phones only."""

from __future__ import annotations

import asyncio
import contextlib

from roundtrip.drivers.simulated.script import SimulateAction
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from roundtrip.links.reasons import LinkError
from roundtrip.links.service import LinkService
from roundtrip.links.snapshot import LinkState

_NEXT = {
    LinkState.CONNECTED: SimulateAction.DISCONNECT,
    LinkState.DEGRADED: SimulateAction.DISCONNECT,
    LinkState.DISCONNECTED: SimulateAction.RECONNECT,
}


class Flapper:
    """Subscribe `switched` to the faults."""

    def __init__(self, faults: Faults, links: LinkService) -> None:
        self._faults = faults
        self._links = links
        self._task: asyncio.Task[None] | None = None
        self._away: set[BotKey] = set()
        """Whose connection this took and has not given back."""

    def switched(self, name: str, active: bool) -> None:
        if name == "whatsapp_flap":
            self.stop()
            if active:
                self._task = asyncio.create_task(self._run(), name="whatsapp-flap")
            elif self._away:
                self._task = asyncio.create_task(self._give_back(), name="whatsapp-flap-over")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        away = self._away
        while (period := self._faults.whatsapp_flap) is not None:
            for view in self._links.links():
                key = BotKey(view.user_id, view.bot_id)
                if view.state not in _NEXT:
                    continue
                action = SimulateAction.RECONNECT if key in away else _NEXT[view.state]
                if action is SimulateAction.DISCONNECT:
                    away.add(key)
                try:
                    await self._links.simulate(key, action)
                    if action is SimulateAction.RECONNECT:
                        away.discard(key)
                except LinkError:
                    away.discard(key)  # it cannot now, or its driver is not a simulated one
            await asyncio.sleep(period)

    async def _give_back(self) -> None:
        """The fault is over: no link stays down because of it."""
        while self._away:
            with contextlib.suppress(LinkError):  # it has ended, or was restarted, meanwhile
                await self._links.simulate(self._away.pop(), SimulateAction.RECONNECT)
