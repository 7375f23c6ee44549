"""The HTTP and events reference, `docs/reference.md`: routes, events, codes and reasons, from the code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "backend"))
from roundtrip.api.problems import STATUS  # only now is this checkout's found
from roundtrip.api.spec.openapi import codes_of, public_rows
from roundtrip.events import CONNECTION_EVENT, PAYLOADS, PUBLIC_TYPES, STATUS_UPDATE, Payload
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.sockets.messages import REFUSALS

REASONS: Final[Mapping[MissReason, str]] = {
    MissReason.NEVER_CONNECTED: "no socket of this key was seen in the last day",
    MissReason.KEY_MISMATCH: "the same user is connected under another bot id that has no link of its own, or one of "
    "the bot ids equals the user id: a key was built wrongly",
    MissReason.OTHER_BOT_CONNECTED: "the same user is connected under another bot that has a link of its own",
    MissReason.JUST_DISCONNECTED: "the last socket disconnected within the last 30 seconds",
    MissReason.DISCONNECTED: "the last socket disconnected earlier",
    MissReason.ACK_TIMEOUT: "it was sent, and nobody confirmed it within `ROUNDTRIP_ACK_TIMEOUT`",
    MissReason.QUEUE_FULL: "the client does not read: more than `ROUNDTRIP_SEND_QUEUE_LIMIT` waited for it",
    MissReason.SEND_FAILED: "the connection broke while it was sent",
}

OUTCOMES: Final[Mapping[Outcome, str]] = {
    Outcome.PENDING: "not confirmed yet; it is retried, and replayed to whoever connects",
    Outcome.ACKED: "the application acknowledged it",
    Outcome.RECEIVED: "the transport confirmed it, and the client does not acknowledge",
    Outcome.SUPERSEDED: "a newer event made it pointless, for example the next QR code",
    Outcome.EXPIRED: "nobody took it within `ROUNDTRIP_EVENT_TTL`, or its QR code expired",
    Outcome.DISCARDED: "the link ended before it was delivered",
}


def reference_markdown() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# HTTP and events reference"
    yield ""
    yield "Generated from the code by `python -m tools.documents`. For programs: [openapi.json](openapi.json) and"
    yield "[asyncapi.json](asyncapi.json). Who may call, and the limits: [HTTP](http.md)."
    yield from _section("Routes", ("route", "scope of a service key", "what it does", "responses"), _routes())
    yield ""
    yield "Each error is a problem document with one of these codes:"
    yield from _table(("status", "codes"), _codes())
    yield from _section(
        f"Events: `{CONNECTION_EVENT}`",
        ("type", "its own fields"),
        ((f"`{type_.wire}`", _fields(PAYLOADS[type_])) for type_ in PUBLIC_TYPES),
    )
    yield ""
    yield "Every event also has `id`, `seq`, `type`, `userId`, `botId`, `linkId`, `timestamp`, `replayed`, `attempt`"
    yield "and `traceparent`. Delivery is at least once, in `seq` order per key: drop an `id` that you have seen."
    yield f"The snapshot, `{STATUS_UPDATE}`, has the fields of `GET /api/bots/{{botId}}/link`."
    yield from _section(
        "Refusals of a socket: `connect_error`",
        ("`data.code`", "`message`"),
        ((f"`{code}`", text) for code, text in REFUSALS.items()),
    )
    yield from _section(
        "Outcomes of an event", ("outcome", "meaning"), ((f"`{one.wire}`", OUTCOMES[one]) for one in Outcome)
    )
    yield ""
    yield (
        "At any moment: created = "
        + " + ".join(one.wire for one in Outcome if one is not Outcome.PENDING)
        + " + pending."
    )
    yield from _section("Reasons of a miss", ("reason", "meaning"), ((f"`{one}`", REASONS[one]) for one in MissReason))


def _section(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield from _table(head, rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _routes() -> Iterator[tuple[str, ...]]:
    for row in public_rows():
        scope = f"`{row.scope}`" if row.scope is not None else "-"
        statuses = sorted({STATUS[code] for code in codes_of(row)})
        yield f"`{row.method} {row.path}`", scope, row.summary, f"{row.status}; {', '.join(map(str, statuses))}"


def _codes() -> Iterator[tuple[str, ...]]:
    for status in sorted(set(STATUS.values())):
        codes = ", ".join(f"`{code}`" for code, its in STATUS.items() if its == status)
        yield str(status), codes


def _fields(payload: type[Payload]) -> str:
    """As `phoneNumber`: string, `until`: string or null."""
    return ", ".join(f"`{field.encode_name}`: {_type(field.type)}" for field in msgspec.structs.fields(payload)) or "-"


def _type(kind: Any) -> str:
    names = {str: "string", int: "integer", bool: "boolean", float: "number", type(None): "null"}
    parts = get_args(kind) or (kind,)
    return " or ".join(names.get(part, getattr(part, "__name__", str(part))) for part in parts)
