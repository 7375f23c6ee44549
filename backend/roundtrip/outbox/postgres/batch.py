"""The writes of one transaction as the arguments of the batch function, and its answer as results."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from roundtrip.events import TYPE_OF, EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import AppendCallback, Check, OutboxError, Record, Resolve, Upgrade
from roundtrip.outbox.postgres.arguments import json_lines, lines, numbers
from roundtrip.outbox.postgres.reads import KeyCache, KnownKey
from roundtrip.outbox.records import Draft, Ended, EventIds, Outcome, StoredEvent, Timestamps, body_tail, whole_body

log = structlog.get_logger(__name__)

_LARGEST: Final = 1 << 62
_TYPES: Final = tuple(EventType)
_FEW: Final = max(_TYPES) + 1


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


class _KeyAppends:
    """The new events of one key in a batch. `number` is the key's place among the batch's, from 1."""

    newest = ""
    number = 0
    first = 0
    """The `seq` before its first event, once it is known."""
    count = 0
    clears = 0
    sets = 0
    supersedes: dict[int, int] | None = None
    superseding = False

    def __init__(self, known: KnownKey) -> None:
        self.known = known


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
        self._make_id = ids.make
        self._time_text = times.text
        self.writes: list[Write] = []
        self.refused: list[tuple[Append, OutboxError]] = []
        self.checks: list[Check] = []
        self._appends: dict[BotKey, _KeyAppends] = {}
        # one column of the new events each
        self._new: list[Append] = []
        self._of: list[_KeyAppends] = []
        self._ordinals: list[int] = []
        self._ids: list[str] = []
        self._kinds: list[EventType] = []
        self._tails: list[bytes] = []
        self._counts = [0] * _FEW
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
        key, payload, created_at = draft.key, draft.payload, draft.created_at
        appends = self._appends.get(key)
        known = self._keys.of(key) if appends is None else appends.known
        try:
            tail = body_tail(draft, self._time_text(created_at), known.json)
        except (ValueError, TypeError, OverflowError) as error:
            log.error("event_not_encoded", type=type(payload).__name__, error=type(error).__name__)
            self.refused.append((write, OutboxError("outbox_unavailable", "The event could not be encoded.")))
            return
        if appends is None:
            appends = self._appends[key] = _KeyAppends(known)
        kind = TYPE_OF[type(payload)]
        appends.count = ordinal = appends.count + 1
        if draft.supersedes:
            mask = _mask(draft.supersedes)
            appends.clears |= mask
            appends.sets &= ~mask
            if appends.supersedes is None:
                appends.supersedes = {}
            appends.supersedes[mask] = ordinal
            appends.superseding = appends.superseding or bool(known.may & mask)
            known.may &= ~mask
        bit = 1 << kind
        appends.sets |= bit
        known.may |= bit
        appends.newest = id_ = self._make_id(created_at)
        self._new.append(write)
        self._of.append(appends)
        self._ordinals.append(ordinal)
        self._ids.append(id_)
        self._kinds.append(kind)
        self._tails.append(tail)
        self._counts[kind] += 1

    def _change(self, write: Change) -> bool:
        key, seq = write.key, write.seq
        known = self._keys.get(key)
        appends = self._appends.get(key)
        if appends is not None and (appends.superseding or seq > appends.known.last_seq):
            return False  # the events of this batch, or what they supersede, come before it
        if known is None or known.key_id is None or not 0 < seq < _LARGEST:
            return True  # no such event
        ref = known.key_id, seq
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
        return self._ids

    def arguments(self, node_id: str, fence: int, slot: int, now: int, oldest: int) -> tuple[Any, ...]:
        """Of `WRITE`. `now`, and when the oldest event that is pending was created, in ms by the store's clock. Raises
        `ValueError` or `OverflowError` for what cannot be written."""
        self.now = now
        self._order = order = sorted(
            self._appends
        )  # by code points, as the collation "C": every node locks in one order
        appends = [self._appends[key] for key in order]
        supersedes: list[tuple[int, int, int]] = []
        for number, key in enumerate(appends, 1):
            key.number = number
            if key.supersedes is not None:
                supersedes += [(number, mask, ordinal) for mask, ordinal in key.supersedes.items()]
        drafts = [write.draft for write in self._new]
        created_at = [draft.created_at - offset for draft, _, offset in self._new]
        states = {draft.key: draft.state for draft in drafts if draft.state is not None}
        ends = self._resolves.values()
        created = self.created()
        return (
            node_id,
            fence,
            slot,
            now,
            lines([key.user_id for key in order]),
            lines([key.bot_id for key in order]),
            numbers([key.count for key in appends]),
            numbers([key.clears for key in appends]),
            numbers([key.sets for key in appends]),
            numbers([key.number for key in self._of]),
            numbers(self._ordinals),
            lines(self._ids),
            numbers(self._kinds),
            lines([draft.link_id for draft in drafts]),
            numbers(created_at),
            numbers([draft.expires_at - offset for draft, _, offset in self._new]),
            lines([draft.traceparent for draft in drafts]),
            json_lines(self._tails),
            numbers([row[0] for row in supersedes]),
            numbers([row[1] for row in supersedes]),
            numbers([row[2] for row in supersedes]),
            numbers([ref[0] for ref in self._records]),
            numbers([ref[1] for ref in self._records]),
            lines(list(self._records.values())),
            numbers([ref[0] for ref in self._resolves]),
            numbers([ref[1] for ref in self._resolves]),
            numbers([end.outcome for end in ends]),
            numbers([end.at for end in ends]),
            lines([end.attempts for end in ends]),
            numbers([ref[0] for ref in self._upgrades]),
            numbers([ref[1] for ref in self._upgrades]),
            numbers(list(self._upgrades.values())),
            numbers(list(created)),
            numbers(list(created.values())),
            sum(1 << type_ for type_ in created),
            [key.user_id for key in states],
            [key.bot_id for key in states],
            [state.link_id for state in states.values()],
            [state.state for state in states.values()],
            [state.paired for state in states.values()],
            [state.record for state in states.values()],
            [state.version for state in states.values()],
            bool(self.checks),
            min(oldest, min(created_at, default=oldest)),
        )

    def results(self, answer: Mapping[str, Any]) -> Results:
        """What the committed batch reports, from the row that `WRITE` gave."""
        columns = (answer[name] or () for name in ("o_keys", "o_last", "o_may"))
        for key, key_id, last, may in zip(self._order, *columns, strict=True):
            known = self._appends[key].known
            known.key_id, known.last_seq, known.may = key_id, last, may
        return self._report(list(zip(answer["o_ended_keys"] or (), answer["o_ended_seqs"] or (), strict=True)))

    def found(self, rows: Mapping[str, tuple[int, int]], ended: Sequence[tuple[int, int]]) -> Results:
        """The same for a batch whose answer was lost and which turned out to be committed. `rows` has the key's number
        and the `seq` of each id, `ended` what it superseded."""
        for appends in self._appends.values():
            appends.known.key_id, appends.known.last_seq = rows[appends.newest]
            appends.known.may = -1
        return self._report(ended)

    def _report(self, ended: Sequence[tuple[int, int]]) -> Results:
        for appends in self._appends.values():
            appends.first = appends.known.last_seq - appends.count
        before: list[Ended] = []
        within: list[Ended] = []
        by_id = {appends.known.key_id: (key, appends) for key, appends in self._appends.items()} if ended else {}
        for key_id, seq in ended:
            key, appends = by_id[key_id]
            (within if seq > appends.first else before).append(Ended(key, seq, Outcome.SUPERSEDED))
        columns = zip(self._new, self._of, self._ordinals, self._ids, self._kinds, self._tails, strict=True)
        done = [
            (write, _event(write, appends.first + ordinal, id_, kind, tail))
            for write, appends, ordinal, id_, kind, tail in columns
        ]
        return Results(before, done, within)

    def created(self) -> dict[EventType, int]:
        """How many new events of each type."""
        return {kind: self._counts[kind] for kind in _TYPES if self._counts[kind]}

    def forget(self) -> None:
        """It was not committed: what the cache took from it is not so."""
        for key, appends in self._appends.items():
            if appends.known.key_id is None:
                self._keys.pop(key, None)
            appends.known.may = -1


def _event(write: Append, seq: int, id_: str, kind: EventType, tail: bytes) -> StoredEvent:
    draft, _, offset = write
    return StoredEvent(
        draft.key,
        seq,
        id_,
        kind,
        draft.link_id,
        draft.created_at - offset,
        draft.expires_at - offset,
        draft.traceparent,
        whole_body(id_, seq, tail),
    )
