"""One batch's way into the database, and what a failure on it means.

Which of three things a failure is, is never guessed:

- refused (a conflict, a full disk, a read-only server): nothing was written;
- lost (the connection ended, or nothing came back in time): a new connection takes a new fence first, which waits for
  what the old one had under way and bars what it may still send; then the ids of the batch's events tell whether it was
  committed. Without new events it is simply written again, which changes nothing the second time;
- fenced: another node has the store. Nothing is written any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Check, OutboxError
from roundtrip.outbox.batched import CommitFaults
from roundtrip.outbox.postgres.arguments import WRITE
from roundtrip.outbox.postgres.batch import Append, Batch, Results, Write
from roundtrip.outbox.postgres.connector import FENCED, NOT_OWNER, Connector, Lost
from roundtrip.outbox.postgres.database import LOST, REFUSED, reason, store_away
from roundtrip.outbox.postgres.reads import KeyCache, Sums

log = structlog.get_logger(__name__)

GRACE: Final = 1.0
"""Seconds that callers wait for a lost connection to be replaced before they are refused."""

_LOOK_AGAIN: Final = 0.05
_COMMIT: Final = f"SELECT w.*, others_1($1) AS o_others FROM ({WRITE}) AS w"  # noqa: S608  # of this package
"""`others_1` comes after the batch and under its lock: no event of it overlooks a node that joins."""
_LOOK_UP: Final = "SELECT id, key_id, seq FROM events WHERE id = ANY($1::uuid[])"
_SUPERSEDED: Final = (
    "SELECT key_id, seq FROM events WHERE key_id = ANY($1::bigint[]) AND outcome = 3 AND resolved_at = $2"
)
_NO_CHANGE: Final = (Append, Check)
_FIND_KEYS: Final = (
    "SELECT k.user_id, k.bot_id, k.key_id, k.last_seq, k.may_be_pending "
    "FROM unnest($1::text[], $2::text[]) AS r (u, b) JOIN keys k ON k.user_id = r.u AND k.bot_id = r.b"
)


class Refusal(Exception):  # noqa: N818  # an answer of this module to itself
    """Nothing was written. `again`: it may be tried at once; `malformed`: one of the writes is at fault."""

    def __init__(self, error: OutboxError, *, again: bool = False, malformed: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.again = again
        self.malformed = malformed


class Committer:
    """Used by the writer's task alone."""

    def __init__(
        self, connector: Connector, keys: KeyCache, sums: Sums, faults: CommitFaults, now: Callable[[], int]
    ) -> None:
        """`now` is in milliseconds by the store's clock."""
        self._connector = connector
        self._keys = keys
        self._sums = sums
        self._faults = faults
        self._now = now
        self.while_away: Callable[[], None] = lambda: None
        """Called now and then while a batch waits for the store to come back: others need not wait with it."""

    async def know(self, writes: Sequence[Write]) -> bool:
        """Find the numbers of keys that a change names and the cache has not. Whether the store answered."""
        unknown = list({w.key for w in writes if not isinstance(w, _NO_CHANGE) and w.key not in self._keys})
        if not unknown:
            return True
        try:
            connection = await self._connector.get(GRACE)
            rows = await connection.fetch(_FIND_KEYS, [key.user_id for key in unknown], [key.bot_id for key in unknown])
        except (*LOST, Lost, asyncpg.PostgresError) as error:
            self._connector.failed(error)
            return False
        for user_id, bot_id, key_id, last_seq, may in rows:
            known = self._keys.of(BotKey(user_id, bot_id))
            known.key_id, known.last_seq, known.may = key_id, last_seq, may
        return True

    async def commit(self, batch: Batch) -> Results:
        """One transaction. Raises `Refusal` when it is certain that nothing was written."""
        if self._faults.delay > 0:
            await asyncio.sleep(self._faults.delay)
        if self._faults.down:
            error = OutboxError("outbox_unavailable", "The event store could not write: the fault outbox_down is on.")
            raise Refusal(error)
        if batch.empty():
            return Results((), (), ())
        try:
            connection = await self._connector.get(GRACE)
        except Lost as error:
            raise Refusal(store_away(str(error))) from None
        lease = self._connector.lease
        now = self._now()
        try:
            values = batch.arguments(lease.node_id, lease.fence, lease.slot, now, self._sums.oldest(now))
            answer = await connection.fetchrow(_COMMIT, *values)
        except (ValueError, TypeError, OverflowError) as error:  # of this client: not sent
            refusal = OutboxError("outbox_unavailable", f"The event store could not write: {type(error).__name__}.")
            raise Refusal(refusal, malformed=True) from None
        except REFUSED as error:
            raise Refusal(store_away(reason(error)), again=True) from None
        except LOST as error:
            return await self._look_up(batch, error)
        except asyncpg.PostgresError as error:
            self._connector.failed(error)
            if error.sqlstate == FENCED:  # by an earlier connection, or by another node: a new fence tells
                raise Refusal(store_away("this node's lease has ended"), again=True) from None
            malformed = isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError)
            malformed = malformed or error.sqlstate == NOT_OWNER
            raise Refusal(store_away(reason(error)), malformed=malformed) from None
        results = batch.results(answer)._replace(others=answer["o_others"])
        ended = list(zip(answer["o_types"] or (), answer["o_outcomes"] or (), answer["o_counts"] or (), strict=True))
        ended += [(type_, 3, 1) for type_ in answer["o_ended_types"] or ()]
        self._sums.add(batch.created(), ended, answer["o_oldest"])
        return results

    async def _returned(self) -> Any:
        """A connection, however long it takes. Raises `Lost` when there will be none."""
        while True:
            try:
                return await self._connector.get(GRACE)
            except Lost:
                if self._connector.over:
                    raise
                self.while_away()
                await asyncio.sleep(_LOOK_AGAIN)

    async def _look_up(self, batch: Batch, error: BaseException) -> Results:
        """The answer was lost: wait for a new connection, which no earlier transaction outlasts, and look."""
        self._connector.failed(error)
        while True:
            try:
                connection = await self._returned()
                ids = batch.ids()
                rows = {str(id_): (key_id, seq) for id_, key_id, seq in await connection.fetch(_LOOK_UP, ids)}
                ended = (
                    []
                    if not rows
                    else [
                        (key_id, seq)
                        for key_id, seq in await connection.fetch(
                            _SUPERSEDED, list({key_id for key_id, _ in rows.values()}), batch.now
                        )
                    ]
                )
                await self._sums.read(connection)
            except (*LOST, asyncpg.PostgresError) as again:
                self._connector.failed(again)
                continue
            except Lost as over:  # closing, or fenced: it is not known, and will not be
                raise Refusal(store_away(str(over))) from None
            if rows:
                log.info("commit_found", events=len(rows))
                return batch.found(rows, ended)._replace(others=True)
            raise Refusal(store_away(reason(error)), again=True)
