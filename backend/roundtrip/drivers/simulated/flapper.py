"""The fault `whatsapp_flap`: connected links lose WhatsApp and have it back, over and over. Simulated phones only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from roundtrip.drivers.simulated.script import SimulateAction
from roundtrip.errors import RoundtripError
from roundtrip.faults import Faults
from roundtrip.identity import BotKey

_NEXT: Final[Mapping[str, SimulateAction]] = {
    "connected": SimulateAction.DISCONNECT,
    "degraded": SimulateAction.DISCONNECT,
    "disconnected": SimulateAction.RECONNECT,
}
"""What happens next to a link in which state of the contract."""


class View(Protocol):
    """A link as whoever runs it shows it."""

    @property
    def user_id(self) -> str: ...

    @property
    def bot_id(self) -> str: ...

    @property
    def state(self) -> str: ...


class Links(Protocol):
    """Whoever runs links on a simulated phone: `links.service`, which stands above the drivers."""

    def links(self) -> Sequence[View]: ...

    async def simulate(self, key: BotKey, action: SimulateAction) -> object:
        """Raises `RoundtripError` where it cannot be done now."""


class Flapper:
    """Subscribe `switched` to the faults."""

    def __init__(self, faults: Faults, links: Links) -> None:
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
                except RoundtripError:
                    away.discard(key)  # it cannot now, or its driver is not a simulated one
            await asyncio.sleep(period)

    async def _give_back(self) -> None:
        """The fault is over: no link stays down because of it."""
        while self._away:
            with contextlib.suppress(RoundtripError):  # it has ended, or was restarted, meanwhile
                await self._links.simulate(self._away.pop(), SimulateAction.RECONNECT)
