"""Request and response bodies of the HTTP API as types, and the conversion of stored events into them."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from roundtrip.clock import rfc3339
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from roundtrip.outbox.records import Attempt, LedgerEntry, MissReason, Mode, Outcome, omitted
from roundtrip.telemetry.redaction import look_up

Time = Annotated[str, msgspec.Meta(description="RFC 3339, UTC, with milliseconds")]


class ApiModel(msgspec.Struct, frozen=True, rename="camel"):
    pass


class LinkRequest(ApiModel, frozen=True):
    """`phoneNumber`, in international form, asks for a pairing code instead of a QR code."""

    phone_number: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class LinkAccepted(ApiModel, frozen=True):
    """The link as it is once the command was taken up; what follows comes as events."""

    link_id: str | None
    state: LinkState


class BotView(ApiModel, frozen=True):
    """One bot of the caller's that has a link."""

    user_id: str
    bot_id: str
    link_id: str
    state: LinkState
    since: Time


class BotList(ApiModel, frozen=True):
    bots: tuple[BotView, ...]


class SimulateRequest(ApiModel, frozen=True):
    action: SimulateAction


class LedgerQuery(ApiModel, frozen=True):
    """`after` is a `seq`; the page begins with the next one."""

    after: Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


class Result(enum.StrEnum):
    SENT = "sent"
    MISSED = "missed"


class OutcomeName(enum.StrEnum):
    PENDING = "pending"
    ACKED = "acked"
    RECEIVED = "received"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    DISCARDED = "discarded"


class AttemptView(ApiModel, frozen=True, omit_defaults=True):
    """One attempt to emit. One that found no socket says which key it looked for, and which keys of the same user had
    sockets then, as hashes; and whether a bot id of either is the user's id. `omitted` is how many attempts between
    this one and the next are not kept. `node` made it, where several nodes share a store."""

    at: Time
    mode: Mode
    result: Result
    sockets: int
    reason: MissReason | None = None
    receipt_at: Time | None = None
    ack_at: Time | None = None
    looked_for: str | None = None
    looked_for_is_user: bool = False
    connected: tuple[str, ...] = ()
    connected_is_user: bool = False
    sids: tuple[str, ...] = ()
    trace_id: str | None = None
    omitted: int = 0
    node: str | None = None


class LedgerEvent(ApiModel, frozen=True, omit_defaults=True):
    """One event of a key's history, without what it said. Of very many attempts only the first and the last are kept:
    `attemptsOmitted` is how many are not here."""

    id: str
    seq: int
    type: str
    user_id: str
    bot_id: str
    link_id: str
    created_at: Time
    outcome: OutcomeName
    resolved_at: Time | None
    attempts: tuple[AttemptView, ...]
    attempts_omitted: int = 0


class LedgerPage(ApiModel, frozen=True):
    """`next` is what to ask `after` for the following page, null on the last one."""

    events: tuple[LedgerEvent, ...]
    next: int | None


class FaultParameter(ApiModel, frozen=True):
    parameter: float | None = None


class Config(ApiModel, frozen=True):
    """What the page needs to know of the backend it came from. `sharedStore`: it is one of several nodes, or may be;
    a socket's request `node` tells which."""

    auth: str
    driver: str
    faults_allowed: bool
    actions: tuple[SimulateAction, ...]
    browser_traces: bool = False
    """Whether the page should send a span for each event that it handled."""
    shared_store: bool = False


class Health(ApiModel, frozen=True):
    status: str


def time_of(at_ms: int) -> str:
    """Milliseconds since the epoch as text."""
    return rfc3339(at_ms / 1000)


def attempt_view(attempt: Attempt, key: BotKey) -> AttemptView:
    """An attempt at an event of this key. Old ones have bot ids, and no hashes."""
    connected = attempt.connected or look_up(key.user_id, key.bot_id, attempt.keys).connected
    return AttemptView(
        time_of(attempt.at),
        attempt.mode,
        Result.SENT if attempt.reason is None else Result.MISSED,
        attempt.sockets,
        attempt.reason,
        None if attempt.receipt_at is None else time_of(attempt.receipt_at),
        None if attempt.ack_at is None else time_of(attempt.ack_at),
        attempt.looked_for,
        attempt.looked_for_is_user,
        connected,
        attempt.connected_is_user,
        attempt.sids,
        attempt.trace_id,
        attempt.omitted,
        attempt.node,
    )


def outcome_name(outcome: Outcome) -> OutcomeName:
    return OutcomeName(outcome.wire)


def ledger_event(entry: LedgerEntry) -> LedgerEvent:
    return LedgerEvent(
        entry.id,
        entry.seq,
        entry.type.wire,
        entry.key.user_id,
        entry.key.bot_id,
        entry.link_id,
        time_of(entry.created_at),
        outcome_name(entry.outcome),
        None if entry.resolved_at is None else time_of(entry.resolved_at),
        tuple(attempt_view(attempt, entry.key) for attempt in entry.attempts),
        omitted(entry.attempts),
    )
