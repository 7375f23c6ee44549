"""Routes of stored events: the ledger of one bot, and one event's timeline."""

from __future__ import annotations

import msgspec

from roundtrip.api.debug.timeline import Timeline, TraceViewer, timeline
from roundtrip.api.problems import Problem
from roundtrip.api.routes import Call, Route
from roundtrip.api.schemas import LedgerPage, LedgerQuery, ledger_event
from roundtrip.auth.service_keys import Scope
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import LedgerEntry

_ID_LENGTH = 36


class EventRoutes:
    def __init__(self, outbox: Outbox, viewer: TraceViewer) -> None:
        self._outbox = outbox
        self._viewer = viewer

    async def list(self, call: Call) -> msgspec.Struct:
        query = call.query_as(LedgerQuery)
        entries = await self._outbox.ledger(call.key(), query.after, query.limit + 1)
        page = entries[: query.limit]
        more = len(entries) > query.limit
        return LedgerPage(tuple(ledger_event(entry) for entry in page), page[-1].seq if more else None)

    async def read(self, call: Call) -> msgspec.Struct:
        entry = await find_event(self._outbox, call.path("event_id"))
        if entry.key.user_id != call.user.user_id:
            raise unknown_event()  # indistinguishable from one that never existed
        return timeline(entry, self._viewer)

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "GET",
                "/api/bots/{bot_id}/events",
                "listEvents",
                "The ledger: what became of each of a bot's events",
                self.list,
                LedgerPage,
                scope=Scope.EVENTS_READ,
                query=LedgerQuery,
                problems=("query_invalid", "outbox_unavailable"),
            ),
            Route(
                "GET",
                "/api/events/{event_id}",
                "readEvent",
                "One event's timeline: created, each attempt and why it missed, receipt, acknowledgement, end",
                self.read,
                Timeline,
                scope=Scope.EVENTS_READ,
                problems=("event_not_found", "outbox_unavailable"),
            ),
        )


async def find_event(outbox: Outbox, event_id: str) -> LedgerEntry:
    """Raises `Problem` with `event_not_found`."""
    entry = await outbox.find(event_id.lower()) if len(event_id) == _ID_LENGTH and event_id.isascii() else None
    if entry is None:
        raise unknown_event()
    return entry


def unknown_event() -> Problem:
    return Problem("event_not_found", "There is no such event.", 404)
