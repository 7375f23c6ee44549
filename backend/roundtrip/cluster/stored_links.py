"""Links that another node has, as the store knows them: what `GET` and a socket's snapshot show on every node.

A link's record commits with the event that tells of it, and is read here together with the key's newest `seq`: the one
is never behind the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from roundtrip.clock import TimerClock
from roundtrip.cluster.tables import Tables
from roundtrip.identity import BotKey
from roundtrip.links import payloads, startup
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.links.record import LinkRecord, LinkState

_COLUMNS: Final = (
    "SELECT l.record, l.owner, extract(epoch FROM l.restoring)::float8 AS restoring, "
    "EXISTS (SELECT FROM nodes n WHERE n.node_id = l.owner AND n.lease_until > clock_timestamp()) AS owned"
)
_LINK: Final = (
    _COLUMNS + ", CASE WHEN l.code_until > clock_timestamp() THEN l.code END AS code, coalesce(k.last_seq, 0) AS seq "
    "FROM (VALUES ($1::text, $2::text)) AS w (u, b) "
    "LEFT JOIN links l ON l.user_id = w.u AND l.bot_id = w.b AND l.state <> 'idle' "
    "LEFT JOIN keys k ON k.user_id = w.u AND k.bot_id = w.b"
)
_USER: Final = _COLUMNS + " FROM links l WHERE l.user_id = $1 AND l.state <> 'idle' ORDER BY l.bot_id"
_decode = msgspec.json.Decoder(LinkRecord).decode


class _Code(msgspec.Struct, frozen=True, rename="camel"):
    """As `events.Qr` and `events.PairingCode` have it."""

    expires_at: str
    qr: str | None = None
    pairing_code: str | None = None
    index: int | None = None
    total: int | None = None


_decode_code = msgspec.json.Decoder(_Code).decode


class _Elsewhere:
    """What the operator's view has beside the record is known to the link's own node alone."""

    restarts = flaps = waiting = 0
    worker_pid = worker_id = None
    flapping = stalled = False
    deadlines: tuple[str, ...] = ()

    def __init__(self, shared: bool) -> None:
        self.shared = shared


class StoredLinks:
    """Every coroutine raises `StoreError` when the store fails."""

    def __init__(self, tables: Tables, clock: TimerClock, shared: Callable[[LinkRecord], bool]) -> None:
        """`shared`: whether a record's account is linked under another key too."""
        self._tables = tables
        self._clock = clock
        self._shared = shared

    async def snapshot(self, key: BotKey) -> Snapshot:
        """A key's state and the `seq` of its newest event."""
        row = (await self._tables.read(_LINK, *key))[0]
        now = self._clock.now()
        if row["record"] is None:
            return replace(payloads.snapshot(key, None, None, now, 0.0, shared=False), seq=row["seq"])
        record = _present(row, now)
        snapshot = payloads.snapshot(key, record, None, now, 0.0, shared=self._shared(record))
        if row["code"] is None or record.state not in (LinkState.QR, LinkState.PAIRING_CODE):
            return replace(snapshot, seq=row["seq"])
        code = _decode_code(row["code"])
        return replace(snapshot, seq=row["seq"], **msgspec.structs.asdict(code))

    async def of_user(self, user_id: str) -> list[LinkView]:
        """A user's links, for the operator."""
        now = self._clock.now()
        views = []
        for row in await self._tables.read(_USER, user_id):
            record = _present(row, now)
            views.append(replace(payloads.view(record, _Elsewhere(self._shared(record))), owner=row["owner"]))
        return views


def _present(row: Any, now: float) -> LinkRecord:
    """The record as its owner has it in memory: an account whose session is about to start is connecting."""
    record = _decode(row["record"])
    waits = row["restoring"] is not None or not row["owned"]
    if waits and startup.restorable(record):
        return startup.awaiting_restore(record, row["restoring"] or now)
    return record
