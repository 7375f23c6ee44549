"""The timeline of one event: created, each attempt and its confirmation, resolved, with the times between."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

from roundtrip.api.problems import Problem
from roundtrip.api.schemas import ApiModel, AttemptView, OutcomeName, Time, attempt_view, outcome_name, time_of
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Attempt, LedgerEntry, MissReason, Outcome, omitted

_ID_LENGTH = 36


class StepKind(enum.StrEnum):
    CREATED = "created"
    SENT = "sent"
    MISSED = "missed"
    OMITTED = "omitted"
    RECEIPT = "receipt"
    ACK = "ack"
    RESOLVED = "resolved"


class Step(ApiModel, frozen=True, omit_defaults=True):
    """One thing that happened. `sinceCreated` and `sincePrevious` are in milliseconds."""

    at: Time
    kind: StepKind
    text: str
    since_created: int
    since_previous: int
    attempt: int | None = None
    """Which attempt it belongs to, from 1."""


class Timeline(ApiModel, frozen=True, omit_defaults=True):
    """One event. What it said is not here: a QR code is a secret. Of very many attempts only the first and the last are
    kept: `attemptsOmitted` is how many are not here."""

    id: str
    seq: int
    type: str
    user_id: str
    bot_id: str
    link_id: str
    created_at: Time
    expires_at: Time
    outcome: OutcomeName
    resolved_at: Time | None
    attempts: tuple[AttemptView, ...]
    steps: tuple[Step, ...]
    trace_id: str | None
    """The trace in which it was created; each attempt names its own where that differs."""
    trace_url: str | None
    attempts_omitted: int = 0


class TraceViewer(msgspec.Struct, frozen=True):
    """`template` is an address with `{trace_id}` in it, None without a viewer."""

    template: str | None = None

    def url(self, trace_id: str | None) -> str | None:
        if self.template is None or trace_id is None:
            return None
        return self.template.replace("{trace_id}", trace_id)


def timeline(entry: LedgerEntry, viewer: TraceViewer) -> Timeline:
    """The timeline of a stored event."""
    trace_id = trace_id_of(entry.traceparent)
    return Timeline(
        entry.id,
        entry.seq,
        entry.type.wire,
        entry.key.user_id,
        entry.key.bot_id,
        entry.link_id,
        time_of(entry.created_at),
        time_of(entry.expires_at),
        outcome_name(entry.outcome),
        None if entry.resolved_at is None else time_of(entry.resolved_at),
        tuple(attempt_view(attempt, entry.key) for attempt in entry.attempts),
        tuple(_steps(entry)),
        trace_id,
        viewer.url(trace_id),
        omitted(entry.attempts),
    )


async def find_event(outbox: Outbox, event_id: str) -> LedgerEntry:
    """Raises `Problem` with `event_not_found`."""
    entry = await outbox.find(event_id.lower()) if len(event_id) == _ID_LENGTH and event_id.isascii() else None
    if entry is None:
        raise unknown_event()
    return entry


def unknown_event() -> Problem:
    return Problem("event_not_found", "There is no such event.", 404)


def trace_id_of(traceparent: str) -> str | None:
    parts = traceparent.split("-")
    return parts[1] if len(parts) == 4 and len(parts[1]) == 32 else None


def _steps(entry: LedgerEntry) -> Iterator[Step]:
    steps: list[tuple[int, StepKind, str, int | None]] = [
        (entry.created_at, StepKind.CREATED, f"Stored, with seq {entry.seq} of its key.", None)
    ]
    number = 1
    for attempt in entry.attempts:
        steps += ((at, kind, text, number) for at, kind, text in _attempt_steps(entry, attempt))
        if attempt.omitted:
            text = f"{attempt.omitted} more attempts; their details are not kept."
            steps.append((attempt.at, StepKind.OMITTED, text, None))
        number += 1 + attempt.omitted
    if entry.outcome is not Outcome.PENDING:
        at = entry.resolved_at if entry.resolved_at is not None else steps[-1][0]
        steps.append((at, StepKind.RESOLVED, _RESOLUTIONS[entry.outcome], None))
    steps.sort(key=lambda step: step[0])  # stable: steps within one millisecond keep their order
    previous = entry.created_at
    for at, kind, text, attempt_number in steps:
        yield Step(time_of(at), kind, text, at - entry.created_at, at - previous, attempt_number)
        previous = at


def _attempt_steps(entry: LedgerEntry, attempt: Attempt) -> Iterator[tuple[int, StepKind, str]]:
    verb = "Sent" if attempt.mode == "live" else "Replayed"
    if attempt.reason is None:
        yield attempt.at, StepKind.SENT, f"{verb} to {_socket_count(attempt.sockets)}."
    else:
        yield attempt.at, StepKind.MISSED, _miss_text(entry, attempt, attempt.reason)
    if attempt.receipt_at is not None:
        yield attempt.receipt_at, StepKind.RECEIPT, "The client's transport confirmed its receipt."
    if attempt.ack_at is not None:
        yield attempt.ack_at, StepKind.ACK, "The client's application acknowledged it."


def _miss_text(entry: LedgerEntry, attempt: Attempt, reason: MissReason) -> str:
    bot = entry.key.user_id if attempt.looked_for_is_user else entry.key.bot_id
    looked = f"No socket of the bot {bot!r}"
    match reason:
        case MissReason.KEY_MISMATCH:
            there = ", ".join(map(repr, attempt.keys)) or "another bot"
            return f"{looked}; the user is connected as {there}."
        case MissReason.OTHER_BOT_CONNECTED:
            there = ", ".join(map(repr, attempt.keys)) or "another bot"
            return f"{looked}; the user is connected for {there} only."
        case MissReason.NEVER_CONNECTED:
            return f"{looked}: none has connected so far."
        case MissReason.JUST_DISCONNECTED:
            return f"{looked}: the last one disconnected less than 30 s before."
        case MissReason.DISCONNECTED:
            return f"{looked}: the last one has disconnected."
        case MissReason.ACK_TIMEOUT:
            return f"Sent to {_socket_count(attempt.sockets)}; not confirmed within the acknowledgement timeout."
        case MissReason.QUEUE_FULL:
            return "The socket's send queue was full; the socket was closed."
        case MissReason.SEND_FAILED:
            return "Writing to the socket failed."


def _socket_count(count: int) -> str:
    return "1 socket" if count == 1 else f"{count} sockets"


_RESOLUTIONS = {
    Outcome.ACKED: "Delivered: acknowledged by the application.",
    Outcome.RECEIVED: "Delivered: received by the transport.",
    Outcome.SUPERSEDED: "Superseded by a newer event.",
    Outcome.EXPIRED: "Expired before any client received it.",
    Outcome.DISCARDED: "Discarded on request.",
}
