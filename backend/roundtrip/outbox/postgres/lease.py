"""A node's place in the store: its number, its lease, and the fence without which nothing is written.

The lease is kept by the database's clock, and its end is foreseen by this machine's steady clock, read *before* each
renewal is sent: whoever cannot renew knows that its lease has ended no later than the database does. The fence is a
number that grows with each change; every transaction that writes asks for it, so that what a lost connection or a
paused process still sends later is refused.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.clock import SYSTEM, Clock, steady
from roundtrip.errors import StartError
from roundtrip.outbox.postgres.database import LOST, Database, reason

log = structlog.get_logger(__name__)

RENEWALS: Final = 3
"""Renewals within the length of a lease: two may fail."""

MARGIN: Final = 0.2
"""Share of a lease that is left when this node counts it as ended: what it holds takes a while to end."""

LEAVE_LIMIT: Final = 3.0
"""Seconds that giving the lease up may take: every link that is left becomes free with it."""

_RETRY: Final = 0.5


class NodeLease:
    """One node's row in `nodes`. `join`, then `hold` as a task, then `leave`."""

    def __init__(self, database: Database, node_id: str, seconds: float, clock: Clock = SYSTEM) -> None:
        """`seconds` is how long the lease lasts without a renewal, `clock` is this node's own."""
        self.node_id = node_id
        self.seconds = seconds
        self.session = uuid.uuid4().hex
        self.slot = 0
        self.fence = 0
        self.term = 0
        """How often the lease has ended: what was had in an earlier term is somebody else's now."""
        self.nodes = 1
        """Live nodes of the store, this one included, as of the last look at it."""
        self.store_now = 0
        """The database's clock when the fence was set, in milliseconds since the epoch."""
        self.on_change: Callable[[bool], None] = lambda _held: None
        """Called with False when the lease has ended, and with True when it was taken again."""
        self.on_renewed: Callable[[float], None] = lambda _deadline: None
        """Called with the time until which the lease is certain to last, by `clock.steady`, whenever that is later."""
        self._database = database
        self._steady = steady(clock)
        self._deadline = 0.0
        self._told = False
        self._renewed = 0.0
        self._connection: Any = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> bool:
        """Whether the lease is certain to last still."""
        return self._steady() < self._deadline

    @property
    def deadline(self) -> float:
        """Until when it is certain to last, by `clock.steady`."""
        return self._deadline

    @property
    def age(self) -> float:
        """Seconds since the newest renewal was sent."""
        return self._steady() - self._renewed

    async def join(self) -> None:
        """Take a place in the store. Waits for the end of a dead node's lease of the same name, or of a release that
        holds every link by itself; raises `StartError` when that one is alive."""
        waited_from, ends = self._steady(), None
        while (found := await self._try_join()) is not None:
            holder, left = found
            now = self._steady()
            if ends is not None and now + left > ends + self.seconds / (2 * RENEWALS):
                raise StartError(_in_use(holder, self.node_id), 2)
            if ends is None:
                log.info("store_waits_for_lease", holder=holder, seconds=round(left, 1))
                ends = now + left
            await asyncio.sleep(min(left + 0.05, self.seconds / RENEWALS / 2))
        if ends is not None:
            log.info("store_lease_taken_over", waited=round(self._steady() - waited_from, 1))

    async def _try_join(self) -> tuple[str, float] | None:
        """None when it joined, else who is in the way and for how many seconds."""
        sent = self._steady()
        connection = await self._connected()
        row = await connection.fetchrow("SELECT * FROM join_2($1, $2, $3)", self.node_id, self.session, self.seconds)
        if row["o_holder"] is not None:
            return row["o_holder"], float(row["o_left"])
        self.fence, self.slot, self.store_now = row["o_fence"], row["o_slot"], row["o_now"]
        self._renewed_at(sent)
        return None

    async def refence(self, connection: Any) -> bool:
        """Take a new fence over `connection`, after what an older one had under way has ended. Whether this node is
        still in the store."""
        row = await connection.fetchrow("SELECT * FROM refence_1($1, $2)", self.node_id, self.session)
        if row["o_fence"] is None:
            return False
        self.fence, self.store_now = row["o_fence"], row["o_now"]
        return True

    async def hold(self) -> None:
        """Renew until cancelled; reports when the lease has ended, and takes it again when the store is back."""
        while True:
            await asyncio.sleep(self._pause())
            await self.renew()

    async def renew(self) -> None:
        """Renew once, or join anew when the lease has ended in the store."""
        sent = self._steady()
        try:
            async with asyncio.timeout(self.seconds / RENEWALS):
                connection = await self._connected()
                if await connection.fetchval("SELECT renew_1($1, $2, $3)", self.node_id, self.session, self.seconds):
                    self._renewed_at(sent)
                else:
                    self._deadline = 0.0
                    self._tell()
                    if await self._try_join() is not None:
                        log.error("node_id_taken_by_another_node", node=self.node_id)
        except (*LOST, asyncpg.PostgresError) as error:
            log.warning("lease_not_renewed", error=reason(error), left=round(self._deadline - self._steady(), 1))
            self._drop()
        self._tell()

    def _pause(self) -> float:
        """Seconds until the next renewal, but never past the end of the lease."""
        left = self._deadline - self._steady()
        if self._connection is not None:
            return self.seconds / RENEWALS
        return max(0.01, min(_RETRY, left)) if left > 0 else _RETRY

    def _renewed_at(self, sent: float) -> None:
        self._renewed = sent
        self._deadline = sent + self.seconds * (1 - MARGIN)
        self.on_renewed(self._deadline)
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, self._deadline - self._steady()) + 0.001
        self._timer = asyncio.get_running_loop().call_later(delay, self._tell)
        self._tell()

    def _tell(self) -> None:
        held = self.held
        if held != self._told:
            self._told = held
            self.term += not held
            log.log(20 if held else 40, "lease_held" if held else "lease_ended", node=self.node_id)
            self.on_change(held)

    async def leave(self) -> None:
        """Give the place up, so that the next node need not wait. A failure is no error: the lease ends by itself."""
        self._deadline = 0.0
        if self._timer is not None:
            self._timer.cancel()
        if not self.fence:
            return  # it never joined
        try:
            async with asyncio.timeout(LEAVE_LIMIT):
                connection = await self._connected()
                await connection.execute("SELECT leave_1($1, $2)", self.node_id, self.session)
        except (*LOST, asyncpg.PostgresError) as error:
            log.warning("lease_not_given_up", error=reason(error))
        self._drop()

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def _in_use(holder: str, node_id: str) -> str:
    if holder == node_id:
        return f"A node named {node_id} is alive: give each node a name of its own (ROUNDTRIP_NODE_ID)."
    return f"The store is in use by the node {holder} of an earlier release, which is alive: end it first."
