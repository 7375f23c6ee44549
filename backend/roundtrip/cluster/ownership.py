"""Which links this node has: it takes free ones, a few at a time, and those of nodes whose lease has ended.

A node looks at the store about once a second, and at once when another says that there is something. Of several nodes
each takes up to its fair share; what is left over after a while is taken by whoever looks. A node whose lease has ended
has lost all its links, and begins anew with none when it has a lease again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from roundtrip.cluster.claims import Claimed, Claims, Free
from roundtrip.cluster.commands import Commands
from roundtrip.cluster.directory import Directory
from roundtrip.identity import BotKey
from roundtrip.links.storage import StoreError
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)

LONGEST_POLL: Final = 1.0
"""Seconds between two looks, or a sixth of the lease if that is less."""

BATCH: Final = 16
"""Links that are taken in one go, and that may wait for their sessions before more are taken."""

FEW: Final = 4
"""Links beyond the fair share that are taken in one go."""

PATIENCE: Final = 3.0
"""Seconds for which links beyond the fair share are left to others."""

PACE: Final = 0.1
"""Seconds between two goes while links wait for their sessions."""

SWEEP: Final = 10
"""Looks between two sweeps of what crashed nodes and lost answers leave."""

TOPIC: Final = "links"


class Service(Protocol):
    """The link service of this node."""

    @property
    def waiting(self) -> int:
        """Links that wait for their session."""

    def __contains__(self, key: BotKey) -> bool: ...

    def held(self) -> list[BotKey]:
        """The links that this node has, or is about to have."""

    async def adopt(self, claimed: Claimed) -> bool:
        """Have a link, and start its session. False: it could not be had, and has been given back."""

    def suspend(self) -> None:
        """The lease has ended: every session ends, and nothing is written any more."""

    async def start_over(self) -> None:
        """Have no link at all."""

    async def refresh(self) -> None:
        """Take in what other nodes found out about accounts."""


class Ownership:
    """`run` as a task. Must be told when the lease changes."""

    def __init__(
        self,
        lease: NodeLease,
        claims: Claims,
        directory: Directory,
        service: Service,
        watched: Callable[[BotKey], bool],
        took_over: Callable[[str], None],
    ) -> None:
        """`watched`: whether a page of a key is open; `took_over` is called with why a link was taken."""
        self._lease = lease
        self._claims = claims
        self._directory = directory
        self._service = service
        self._watched = watched
        self._took_over = took_over
        self._poll = min(LONGEST_POLL, lease.seconds / 6)
        self._wake = asyncio.Event()
        self._patience: float | None = None
        """Until when links beyond the fair share are left to others, on the loop's clock."""
        self._looks = 0
        self.commands: Commands | None = None
        self.nodes: tuple[str, ...] = (lease.node_id,)
        """The live nodes at the last look."""
        self.lost = False
        """Whether the lease ended, and links of that time have not been given up yet. No session starts then."""
        self.caught_up = asyncio.Event()
        """Set once there was nothing left for this node to take."""

    @property
    def holds(self) -> bool:
        """Whether the links that this node has are its own for certain."""
        return self._lease.held and not self.lost

    def others(self) -> list[str]:
        """The other live nodes."""
        return [node for node in self.nodes if node != self._lease.node_id]

    def look(self) -> None:
        """Look at the store now: another node says that something is there."""
        self._wake.set()

    def lease_changed(self, held: bool) -> None:
        """As `NodeLease.on_change`."""
        if held:
            self._wake.set()
        else:
            self.lost = True
            self._service.suspend()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause = self._poll * random.uniform(0.8, 1.2)  # noqa: S311  nodes do not look in step
            try:
                if self._lease.held:
                    pause = min(pause, await self._round())
            except StoreError:
                pass  # it is logged where it happens
            except Exception as error:  # the next look may do better; without looks this node takes part in nothing
                log.exception("ownership_failed", error=type(error).__name__)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    async def _round(self) -> float:
        """One look and what it asks for. In how many seconds the next one is due at the latest."""
        if self.lost:
            await self._service.start_over()
            await self._claims.free_own()
            self.lost = False
            log.info("links_start_over")
        look = await self._claims.look()
        self.nodes = look.nodes or (self._lease.node_id,)
        self._lease.nodes = len(self.nodes)
        if look.dead:
            for node in await self._claims.bury():
                log.warning("node_lost", node=node)
        if look.asked and self.commands is not None:
            self.commands.look()
        if len(self.nodes) > 1 or not self._looks:
            await self._directory.refresh()
        self._looks += 1
        if self._looks % SWEEP == 0:
            await self._sweep()
        return await self._take_free() if look.free or look.dead else self._nothing_left()

    def _nothing_left(self) -> float:
        self._patience = None
        self.caught_up.set()
        return self._poll

    async def _take_free(self) -> float:
        """Take what is free, as far as this node should."""
        room = BATCH - self._service.waiting
        free = await self._claims.free()
        if not free:
            return self._nothing_left()
        offered = [one for one in free if one.offered]
        rest = [one for one in free if not one.offered]
        random.shuffle(rest)  # other nodes look at the same list
        rest.sort(key=self._rank)
        if room > 0 and rest:
            room = min(room, await self._fair_room(len(rest)))
        picked = offered + rest[: max(0, room)]
        if picked:
            await self._take([one.key for one in picked])
        elif self._service.waiting == 0:
            self.caught_up.set()  # others have what is left over, for now
        return PACE

    def _rank(self, one: Free) -> int:
        if self._watched(one.key):
            return 0
        return 1 if one.state == "connected" else 2

    async def _fair_room(self, free: int) -> int:
        """How many more links this node should have."""
        if len(self.nodes) == 1:
            return free
        counts = await self._claims.counts()
        share = -(-sum(counts.values()) // len(self.nodes))
        room = share - counts.get(self._lease.node_id, 0)
        now = asyncio.get_running_loop().time()
        if room > 0:
            self._patience = None
            return room
        if self._patience is None:
            self._patience = now + PATIENCE
        if now < self._patience:
            return 0
        self._patience = now + 1.0
        return FEW

    async def _take(self, keys: list[BotKey]) -> None:
        await asyncio.gather(*(self.adopt(claimed) for claimed in await self._claims.claim(keys)))

    async def adopt(self, claimed: Claimed) -> bool:
        """Have a link that was taken."""
        if not await self._service.adopt(claimed):
            return False
        self._took_over(claimed.reason)
        log.info("link_claimed", link_id=claimed.record.link_id, reason=claimed.reason, state=claimed.record.state)
        return True

    async def _sweep(self) -> None:
        await self._claims.drop_old_codes()
        if len(self.nodes) > 1:
            await self._service.refresh()
        if self.commands is not None:
            await self.commands.forget()
        for key, fence in (await self._claims.strays(self._service.held())).items():
            if key not in self._service.held():
                log.warning("link_without_session_released")
                await self._claims.release(key, fence, None)
