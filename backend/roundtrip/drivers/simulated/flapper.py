"""The fault `whatsapp_flap`: connected links lose WhatsApp and reconnect, again and again. Simulated phones only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from roundtrip.drivers.simulated import SimulateAction
from roundtrip.errors import RoundtripError
from roundtrip.faults import Faults
from roundtrip.identity import BotKey

_ACTIONS: Final[Mapping[str, SimulateAction]] = {
    "connected": SimulateAction.DISCONNECT,
    "degraded": SimulateAction.DISCONNECT,
    "disconnected": SimulateAction.RECONNECT,
}
"""The state of a link, by its public name → what is done to it next."""


class View(Protocol):
    """A link, as far as it matters here."""

    @property
    def user_id(self) -> str: ...

    @property
    def bot_id(self) -> str: ...

    @property
    def state(self) -> str: ...


class Links(Protocol):
    """Whoever runs links on simulated phones: `links.service`, which drivers may not import."""

    def links(self) -> Sequence[View]: ...

    async def simulate(self, key: BotKey, action: SimulateAction) -> object:
        """Raises `RoundtripError` where it is impossible now."""


class Flapper:
    """Runs while the fault is on. Subscribe `switched` to the faults."""

    def __init__(self, faults: Faults, links: Links) -> None:
        self._faults = faults
        self._links = links
        self._task: asyncio.Task[None] | None = None
        self._disconnected: set[BotKey] = set()
        """Whose connection this took and has not restored."""

    def switched(self, name: str, active: bool) -> None:
        if name == "whatsapp_flap":
            self.stop()
            if active:
                self._task = asyncio.create_task(self._run(), name="whatsapp-flap")
            elif self._disconnected:
                self._task = asyncio.create_task(self._reconnect_all(), name="whatsapp-flap-over")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        disconnected = self._disconnected
        while (period := self._faults.whatsapp_flap) is not None:
            for view in self._links.links():
                key = BotKey(view.user_id, view.bot_id)
                if view.state not in _ACTIONS:
                    continue
                action = SimulateAction.RECONNECT if key in disconnected else _ACTIONS[view.state]
                if action is SimulateAction.DISCONNECT:
                    disconnected.add(key)
                try:
                    await self._links.simulate(key, action)
                    if action is SimulateAction.RECONNECT:
                        disconnected.discard(key)
                except RoundtripError:
                    disconnected.discard(key)  # impossible now, or its driver is not a simulated one
            await asyncio.sleep(period)

    async def _reconnect_all(self) -> None:
        """The fault is over: no link stays disconnected because of it."""
        while self._disconnected:
            with contextlib.suppress(RoundtripError):  # it has ended, or was restarted, meanwhile
                await self._links.simulate(self._disconnected.pop(), SimulateAction.RECONNECT)
