"""A node that stops gives its links away, a few at a time, and waits until the next owner of each has its session."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final, Protocol

import structlog

from roundtrip.cluster.claims import Claims
from roundtrip.cluster.commands import Sender
from roundtrip.cluster.ownership import TOPIC
from roundtrip.identity import BotKey

log = structlog.get_logger(__name__)

AT_ONCE: Final = 4
"""Links that are without a session at a time, for this reason."""

LONGEST: Final = 5.0
"""Seconds that one link's next owner is waited for."""

_LOOK_AGAIN: Final = 0.05


class Service(Protocol):
    """The link service of this node."""

    def held(self) -> list[BotKey]: ...

    def is_live(self, key: BotKey) -> bool: ...

    async def drop(self, key: BotKey) -> int: ...


class HandOver:
    """Of all links of this node, once."""

    def __init__(self, claims: Claims, signals: Sender, service: Service, own: str) -> None:
        """`own` is this node's name."""
        self._claims = claims
        self._signals = signals
        self._service = service
        self._own = own
        self._loads: Counter[str] = Counter()
        """Links of each of the others, as far as is known."""

    async def run(self, seconds: float) -> None:
        """Give links away for at most so long. Those that are left are free when the node has left. Raises
        `StoreError`."""
        others = [node for node in (await self._claims.look()).nodes if node != self._own]
        keys = [key for key in self._service.held() if self._service.is_live(key)]
        if not others or not keys or seconds <= 0:
            return
        counts = await self._claims.counts()
        self._loads = Counter({node: counts.get(node, 0) for node in others})
        log.info("hand_over_begins", links=len(keys), nodes=len(others))
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        given = 0

        async def some() -> None:
            nonlocal given
            while keys and loop.time() < ends:
                given += await self._give(keys.pop(), ends)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        log.info("hand_over_ended", links=given, left=len(keys))

    async def _give(self, key: BotKey, ends: float) -> bool:
        """One link. Whether its next owner has its session."""
        if not self._service.is_live(key):
            return False
        target = min(self._loads, key=lambda node: (self._loads[node], node))
        self._loads[target] += 1
        loop = asyncio.get_running_loop()
        began = loop.time()
        fence = await self._service.drop(key)
        if not await self._claims.release(key, fence, target):
            return False
        self._signals.send([target], TOPIC)
        ends = min(ends, began + LONGEST)
        while loop.time() < ends:
            await asyncio.sleep(_LOOK_AGAIN)
            if await self._claims.settled(key):
                log.info("link_handed_over", to=target, seconds=round(loop.time() - began, 2))
                return True
        log.warning("link_released", to=target, seconds=round(loop.time() - began, 2))
        return False
