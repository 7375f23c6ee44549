"""The debug pages as HTML. htpy escapes every text and attribute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import htpy as h
from htpy import Node, Renderable

from roundtrip.api.debug.timeline import Timeline, TraceViewer
from roundtrip.api.schemas import AttemptView, LedgerEvent, OutcomeName
from roundtrip.links.payloads import LinkView
from roundtrip.links.record import LinkState
from roundtrip.sockets.registry import KeyView, MissView, RegistryView

STYLESHEET: Final = Path(__file__).resolve().parents[2] / "web" / "debug.css"

_GOOD_OUTCOMES: Final = frozenset({OutcomeName.ACKED, OutcomeName.RECEIVED, OutcomeName.SUPERSEDED})
_BAD_STATES: Final = frozenset(
    {
        LinkState.DISCONNECTED,
        LinkState.LOGGED_OUT,
        LinkState.REPLACED,
        LinkState.BANNED,
        LinkState.CLIENT_OUTDATED,
        LinkState.FAILED,
    }
)


def sockets(view: RegistryView) -> str:
    """Who is connected under which key, and the last misses with their reasons."""
    totals = view.totals
    return page(
        "Sockets",
        facts(
            (
                ("Sockets", totals.sockets),
                ("Keys", totals.mapped_keys),
                ("Users", totals.users),
                ("Keys that left lately", totals.remembered_keys),
            )
        ),
        h.h2["Who is here"],
        table(
            ("User", "Bot", "Socket", "Transport", "Age", "Acks", "Caught up", "Waiting"),
            (row for key in view.keys for row in _socket_rows(key)),
            "Nobody is connected.",
        ),
        h.h2["What missed, newest first"],
        table(
            ("At", "Event", "Why", "Looked for", "The user was connected as"),
            (_miss_row(miss) for miss in view.misses),
            "Nothing has missed.",
        ),
    )


def _socket_rows(key: KeyView) -> list[tuple[Node, ...]]:
    return [
        (
            code(key.user_id),
            code(key.bot_id),
            code(socket.sid),
            socket.transport,
            f"{socket.age:.0f} s",
            "promised" if socket.acks else "not promised",
            "yes" if socket.live else "replaying",
            f"{socket.backlog} B",
        )
        for socket in key.sockets
    ]


def _miss_row(miss: MissView) -> tuple[Node, ...]:
    user, bot = miss.looked_for
    return (
        miss.at,
        event_link(miss.event_id, miss.type),
        tag(miss.reason, good=False),
        h.span[code(user), " · ", code(bot)],
        ", ".join(miss.connected) or "none",
    )


def links(views: Sequence[LinkView]) -> str:
    return page(
        "Links",
        table(
            ("Link", "User", "Bot", "State", "Since", "Restarts", "Flaps", "Worker", "Phone", "Reason"),
            (
                (
                    anchor(f"/debug/links/{quote(view.link_id, safe='')}", view.link_id),
                    code(view.user_id),
                    code(view.bot_id),
                    tag(view.state, good=view.state not in _BAD_STATES),
                    view.since,
                    view.restarts,
                    view.flaps,
                    view.worker_pid,
                    view.phone_number,
                    view.reason_code,
                )
                for view in views
            ),
            "No account is linked.",
        ),
    )


def link(view: LinkView, events: Sequence[LedgerEvent]) -> str:
    return page(
        f"Link {view.link_id}",
        facts(
            (
                ("State", tag(view.state, good=view.state not in _BAD_STATES)),
                ("Since", view.since),
                ("User", code(view.user_id)),
                ("Bot", code(view.bot_id)),
                ("Phone", view.phone_number),
                ("Reason", view.reason_code),
                ("Worker", view.worker_pid),
                ("Restarts", view.restarts),
                ("Flaps", view.flaps),
                ("Waiting for the outbox", "yes" if view.stalled else None),
            )
        ),
        h.h2["What was said about it"],
        table(
            ("Seq", "Event", "At", "Outcome", "Attempts"),
            (
                (
                    event.seq,
                    event_link(event.id, event.type),
                    event.created_at,
                    outcome(event.outcome),
                    summary(event.attempts),
                )
                for event in events
            ),
            "Nothing yet.",
        ),
    )


def event(timeline: Timeline, viewer: TraceViewer) -> str:
    return page(
        timeline.type,
        facts(
            (
                ("Outcome", outcome(timeline.outcome)),
                ("Seq", timeline.seq),
                ("User", code(timeline.user_id)),
                ("Bot", code(timeline.bot_id)),
                ("Link", anchor(f"/debug/links/{quote(timeline.link_id, safe='')}", timeline.link_id)),
                ("Event", code(timeline.id)),
                ("Lives until", timeline.expires_at),
                ("Created in trace", trace(timeline.trace_id, viewer)),
            )
        ),
        h.h2["What happened"],
        table(
            ("At", "After", "Step", "", "Attempt"),
            (
                (
                    step.at,
                    f"+{step.since_created} ms",
                    tag(step.kind, good=step.kind != "missed"),
                    step.text,
                    step.attempt,
                )
                for step in timeline.steps
            ),
            "Nothing.",
        ),
        h.h2["Attempts"],
        table(
            ("#", "At", "Mode", "Result", "Looked for", "Connected", "Sockets", "Trace"),
            (
                (
                    number,
                    attempt.at,
                    attempt.mode,
                    tag(attempt.reason or attempt.result, good=attempt.reason is None),
                    key_hashes((attempt.looked_for,), user=attempt.looked_for_is_user),
                    key_hashes(attempt.connected, user=attempt.connected_is_user),
                    ", ".join(attempt.sids) or str(attempt.sockets),
                    trace(attempt.trace_id or timeline.trace_id, viewer),
                )
                for number, attempt in numbered(timeline.attempts)
            ),
            "None has ended yet.",
        ),
    )


def key_hashes(hashes: Sequence[str | None], *, user: bool) -> str:
    """Hashes of keys; whether a user's id stands where a bot's belongs is said with them."""
    shown = ", ".join(text for text in hashes if text)
    return f"{shown} (the user's id as botId)" if user else shown


def numbered(attempts: Sequence[AttemptView]) -> Iterator[tuple[int, AttemptView]]:
    """Each attempt with its number, from 1; omitted attempts count too."""
    number = 1
    for attempt in attempts:
        yield number, attempt
        number += 1 + attempt.omitted


def summary(attempts: Sequence[AttemptView]) -> str:
    """For example: missed (never_connected), 12 more, sent."""
    parts: list[str] = []
    for a in attempts:
        parts.append(f"{a.result} ({a.reason})" if a.reason else str(a.result))
        if a.omitted:
            parts.append(f"{a.omitted} more")
    return ", ".join(parts) or "none"


def outcome(name: OutcomeName) -> Renderable:
    return h.span[name] if name is OutcomeName.PENDING else tag(name, good=name in _GOOD_OUTCOMES)


def tag(text: str, *, good: bool) -> Renderable:
    return h.span(".good" if good else ".bad")[text]


def code(text: str) -> Renderable:
    return h.code[text]


def event_link(event_id: str, text: str) -> Renderable:
    return anchor(f"/debug/events/{quote(event_id, safe='')}", text)


def trace(trace_id: str | None, viewer: TraceViewer) -> Renderable | None:
    if trace_id is None:
        return None
    url = viewer.url(trace_id)
    return code(trace_id) if url is None else anchor(url, trace_id)


def table(headings: Sequence[str], rows: Iterable[Sequence[Node]], empty: str) -> Renderable:
    """A table, or the sentence `empty` where there are no rows."""
    body = [h.tr[(h.td[cell] for cell in row)] for row in rows]
    if not body:
        return h.p(".empty")[empty]
    head = h.thead[h.tr[(h.th(scope="col")[heading] for heading in headings)]]
    return h.div(".scroll", tabindex="0")[h.table[head, h.tbody[body]]]


def facts(pairs: Iterable[tuple[str, Node]]) -> Renderable:
    """A list of names and values, without those whose value is None."""
    return h.dl[(h.div[h.dt[name], h.dd[value]] for name, value in pairs if value is not None)]


def anchor(href: str, text: str) -> Renderable:
    return h.a(href=href)[text]


def page(title: str, *parts: Node) -> str:
    """A whole document, to which each page adds its parts."""
    return str(
        h.html(lang="en")[
            h.head[
                h.meta(charset="utf-8"),
                h.meta(name="viewport", content="width=device-width, initial-scale=1"),
                h.meta(name="color-scheme", content="light dark"),
                h.title[f"{title} · Roundtrip"],
                h.link(rel="stylesheet", href="/debug/style.css"),
            ],
            h.body[
                h.header[h.nav[anchor("/debug/sockets", "Sockets"), " ", anchor("/debug/links", "Links")]],
                h.main[h.h1[title], parts],
            ],
        ]
    )
