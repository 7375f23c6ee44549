"""The writes of one transaction as the arrays of `write_batch_1`, and its answer as results for the event loop."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from roundtrip.events import TYPE_OF, EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import AppendCallback, Check, OutboxError, Record, Resolve, Upgrade
from roundtrip.outbox.records import (
    Draft,
    Ended,
    EventIds,
    Outcome,
    StoredEvent,
    Timestamps,
    body_tail,
    key_part,
    whole_body,
)

log = structlog.get_logger(__name__)

PARAMETERS: Final = 44
WRITE: Final = f"SELECT * FROM write_batch_1({', '.join(f'${n}' for n in range(1, PARAMETERS + 1))})"  # noqa: S608  # numbers

KEY_LIMIT: Final = 50_000
"""Keys that the cache holds."""
_LARGEST: Final = 1 << 62


@functools.cache
def _mask(types: frozenset[EventType]) -> int:
    return sum(1 << type_ for type_ in types)


class Append(NamedTuple):
    """`offset` is this machine's clock minus the store's at the call, in milliseconds."""

    draft: Draft
    done: AppendCallback
    offset: int


Change: TypeAlias = Record | Resolve | Upgrade
Write: TypeAlias = Append | Check | Change


class KnownKey:
    """What is remembered of a key between batches. Other nodes may have moved it on: only `key_id` is certain.

    `may` has a bit for each type of which an event may be pending, and decides nothing but which writes share a batch.
    """

    __slots__ = ("json", "key_id", "last_seq", "may")

    def __init__(self, key: BotKey) -> None:
        self.key_id: int | None = None
        self.last_seq = 0
        self.may = -1
        self.json = key_part(key)


class KeyCache(dict[BotKey, KnownKey]):
    def of(self, key: BotKey) -> KnownKey:
        if (known := self.get(key)) is None:
            known = self[key] = KnownKey(key)
        return known

    def trim(self) -> None:
        """Between two batches: forget all when there are too many."""
        if len(self) > KEY_LIMIT:
            self.clear()


class _KeyAppends:
    """The new events of one key in a batch."""

    __slots__ = ("clears", "count", "known", "newest", "sets", "supersedes", "superseding")

    def __init__(self, known: KnownKey) -> None:
        self.known = known
        self.newest = ""
        self.count = 0
        self.clears = 0
        self.sets = 0
        self.supersedes: dict[int, int] = {}
        self.superseding = False


class _New(NamedTuple):
    write: Append
    id: str
    type: EventType
    tail: bytes
    ordinal: int


class Results(NamedTuple):
    """What a batch reports, in order. Times are by the store's clock."""

    ended_before: Sequence[Ended]
    done: Sequence[tuple[Append, StoredEvent | OutboxError]]
    ended_within: Sequence[Ended]
    others: bool = False  # whether another node was alive after the commit, or may have been


class Batch:
    """Writes that may share a transaction: `add` refuses the first one that may not."""

    def __init__(self, keys: KeyCache, ids: EventIds, times: Timestamps) -> None:
        self._keys = keys
        self._ids = ids
        self._times = times
        self.writes: list[Write] = []
        self.refused: list[tuple[Append, OutboxError]] = []
        self.checks: list[Check] = []
        self._appends: dict[BotKey, _KeyAppends] = {}
        self._new: list[_New] = []
        self._records: dict[tuple[int, int], str] = {}
        self._resolves: dict[tuple[int, int], Resolve] = {}
        self._upgrades: dict[tuple[int, int], int] = {}
        self._order: list[BotKey] = []
        self.now = 0

    def add(self, write: Write) -> bool:
        """Take a write, or say that it must come in a later batch."""
        if isinstance(write, Append):
            self._append(write)
        elif isinstance(write, Check):
            self.checks.append(write)
        elif not self._change(write):
            return False
        self.writes.append(write)
        return True

    def _append(self, write: Append) -> None:
        draft = write.draft
        key = draft.key
        appends = self._appends.get(key)
        known = self._keys.of(key) if appends is None else appends.known
        try:
            tail = body_tail(draft, self._times.text(draft.created_at), known.json)
        except (ValueError, TypeError, OverflowError) as error:
            log.error("event_not_encoded", type=type(draft.payload).__name__, error=type(error).__name__)
            self.refused.append((write, OutboxError("outbox_unavailable", "The event could not be encoded.")))
            return
        if appends is None:
            appends = self._appends[key] = _KeyAppends(known)
        kind = TYPE_OF[type(draft.payload)]
        mask = _mask(draft.supersedes)
        appends.count += 1
        if mask:
            appends.clears |= mask
            appends.sets &= ~mask
            appends.supersedes[mask] = appends.count
            appends.superseding = appends.superseding or bool(known.may & mask)
        appends.sets |= 1 << kind
        known.may = known.may & ~mask | 1 << kind
        appends.newest = self._ids.make(draft.created_at)
        self._new.append(_New(write, appends.newest, kind, tail, appends.count))

    def _change(self, write: Change) -> bool:
        known = self._keys.get(write.key)
        appends = self._appends.get(write.key)
        if appends is not None and (appends.superseding or write.seq > appends.known.last_seq):
            return False  # the events of this batch, or what they supersede, come before it
        if known is None or known.key_id is None or not 0 < write.seq < _LARGEST:
            return True  # no such event
        ref = known.key_id, write.seq
        if ref in self._upgrades:
            return False
        if isinstance(write, Resolve):
            self._resolves.setdefault(ref, write)  # the first end stands
        elif isinstance(write, Upgrade):
            self._upgrades[ref] = write.at
        elif ref not in self._resolves:
            self._records[ref] = write.attempts
        return True

    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self._new or self._records or self._resolves or self._upgrades or self.checks)

    def ids(self) -> list[str]:
        return [new.id for new in self._new]

    def arguments(self, node_id: str, fence: int, slot: int, now: int, oldest: int) -> tuple[Any, ...]:
        """Of `WRITE`. `now`, and when the oldest event that is pending was created, in ms by the store's clock."""
        self.now = now
        self._order = sorted(self._appends)  # by code points, as the collation "C": every node locks in one order
        appends = [self._appends[key] for key in self._order]
        number = {key: n for n, key in enumerate(self._order, 1)}
        new = self._new
        drafts, created = [item.write.draft for item in new], self.created()
        supersedes = [(n, m, o) for n, key in enumerate(appends, 1) for m, o in key.supersedes.items()]
        states = {draft.key: draft.state for draft in drafts if draft.state is not None}
        ends = self._resolves.values()
        return (
            node_id,
            fence,
            slot,
            now,
            [key.user_id for key in self._order],
            [key.bot_id for key in self._order],
            [key.count for key in appends],
            [key.clears for key in appends],
            [key.sets for key in appends],
            [number[draft.key] for draft in drafts],
            [item.ordinal for item in new],
            [item.id for item in new],
            [item.type for item in new],
            [draft.link_id for draft in drafts],
            [item.write.draft.created_at - item.write.offset for item in new],
            [item.write.draft.expires_at - item.write.offset for item in new],
            [draft.traceparent for draft in drafts],
            [item.tail for item in new],
            [row[0] for row in supersedes],
            [row[1] for row in supersedes],
            [row[2] for row in supersedes],
            [ref[0] for ref in self._records],
            [ref[1] for ref in self._records],
            list(self._records.values()),
            [ref[0] for ref in self._resolves],
            [ref[1] for ref in self._resolves],
            [end.outcome for end in ends],
            [end.at for end in ends],
            [end.attempts for end in ends],
            [ref[0] for ref in self._upgrades],
            [ref[1] for ref in self._upgrades],
            list(self._upgrades.values()),
            list(created),
            list(created.values()),
            sum(1 << type_ for type_ in created),
            [key.user_id for key in states],
            [key.bot_id for key in states],
            [state.link_id for state in states.values()],
            [state.state for state in states.values()],
            [state.paired for state in states.values()],
            [state.record for state in states.values()],
            [state.version for state in states.values()],
            bool(self.checks),
            min([oldest, *(item.write.draft.created_at - item.write.offset for item in new)]),
        )

    def results(self, answer: Mapping[str, Any]) -> Results:
        """What the committed batch reports, from the row that `WRITE` gave."""
        columns = (answer[name] or () for name in ("o_keys", "o_last", "o_may"))
        for key, key_id, last, may in zip(self._order, *columns, strict=True):
            known = self._appends[key].known
            known.key_id, known.last_seq, known.may = key_id, last, may
        return self._report(zip(answer["o_ended_keys"] or (), answer["o_ended_seqs"] or (), strict=True))

    def found(self, rows: Mapping[str, tuple[int, int]], ended: Sequence[tuple[int, int]]) -> Results:
        """The same for a batch whose answer was lost and which turned out to be committed. `rows` has the key's number
        and the `seq` of each id, `ended` what it superseded."""
        for appends in self._appends.values():
            appends.known.key_id, appends.known.last_seq = rows[appends.newest]
            appends.known.may = -1
        return self._report(ended)

    def _report(self, ended: Any) -> Results:
        before: list[Ended] = []
        within: list[Ended] = []
        by_id = {appends.known.key_id: (key, appends) for key, appends in self._appends.items()}
        for key_id, seq in ended:
            key, appends = by_id[key_id]
            target = within if seq > appends.known.last_seq - appends.count else before
            target.append(Ended(key, seq, Outcome.SUPERSEDED))
        return Results(before, [(new.write, self._event(new)) for new in self._new], within)

    def _event(self, new: _New) -> StoredEvent:
        draft = new.write.draft
        appends = self._appends[draft.key]
        seq = appends.known.last_seq - appends.count + new.ordinal
        offset = new.write.offset
        return StoredEvent(
            draft.key,
            seq,
            new.id,
            new.type,
            draft.link_id,
            draft.created_at - offset,
            draft.expires_at - offset,
            draft.traceparent,
            whole_body(new.id, seq, new.tail),
        )

    def created(self) -> Counter[EventType]:
        return Counter(new.type for new in self._new)

    def forget(self) -> None:
        """It was not committed: what the cache took from it is not so."""
        for key in self._appends:
            self._keys.pop(key, None)
