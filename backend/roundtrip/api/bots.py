"""Routes of one bot: its link (start, read, log out, simulate) and its events (the ledger, one event's timeline)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec

from roundtrip.api.debug.timeline import Timeline, TraceViewer, find_event, timeline, unknown_event
from roundtrip.api.routes import Call, Route
from roundtrip.api.schemas import (
    BotList,
    BotView,
    LedgerPage,
    LedgerQuery,
    LinkAccepted,
    LinkRequest,
    SimulateRequest,
    ledger_event,
)
from roundtrip.auth.service_keys import Scope
from roundtrip.delivery.snapshots import Snapshots
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits
from roundtrip.links.payloads import LinkView, Snapshot, without_codes
from roundtrip.outbox.base import Outbox

_LINK = "/api/bots/{bot_id}/link"


class Links(Protocol):
    """The link service as HTTP needs it; tests serve the API over one of their own. Commands raise `LinkError`."""

    async def start(self, key: BotKey, phone_number: str | None, traceparent: str | None) -> Snapshot: ...

    def begins_pairing(self, key: BotKey, phone_number: str | None) -> bool:
        """Whether a start would begin a new pairing."""

    async def snapshot_at(self, key: BotKey, seq: int) -> Snapshot:
        """What is true now, with this `seq` or a newer one. Raises `StorageError`."""

    async def logout(self, key: BotKey) -> Snapshot: ...

    async def simulate(self, key: BotKey, action: SimulateAction) -> Snapshot: ...

    async def of_user(self, user_id: str) -> Sequence[LinkView]:
        """A user's links. Raises `StorageError`."""


class LinkRoutes:
    """`limits` None counts no pairings."""

    def __init__(self, links: Links, outbox: Outbox, limits: Limits | None) -> None:
        self._links = links
        self._snapshots = Snapshots(outbox, lambda key, seq: links.snapshot_at(key, seq))
        self._limits = limits
        self._starting: Counter[BotKey] = Counter()
        """Starts under way: a second one for the same bot is the same pairing."""

    async def start(self, call: Call) -> msgspec.Struct:
        key = call.key()
        phone_number = call.body_as(LinkRequest).phone_number
        if self._limits is not None and not self._starting[key] and self._links.begins_pairing(key, phone_number):
            self._limits.pairing(key.user_id)
        self._starting[key] += 1
        try:
            snapshot = await self._links.start(key, phone_number, call.traceparent)
        finally:
            self._starting[key] -= 1
            if not self._starting[key]:
                del self._starting[key]
        return LinkAccepted(snapshot.link_id, snapshot.state)

    async def read(self, call: Call) -> msgspec.Struct:
        return await self._present(call)

    async def list(self, call: Call) -> msgspec.Struct:
        views = await self._links.of_user(call.user.user_id)
        return BotList(
            tuple(BotView(view.user_id, view.bot_id, view.link_id, view.state, view.since) for view in views)
        )

    async def log_out(self, call: Call) -> msgspec.Struct:
        await self._links.logout(call.key())
        return await self._present(call)

    async def simulate(self, call: Call) -> msgspec.Struct:
        action = call.body_as(SimulateRequest).action
        await self._links.simulate(call.key(), action)
        return await self._present(call)

    async def _present(self, call: Call) -> Snapshot:
        _, snapshot = await self._snapshots.read(call.key())
        return snapshot if Scope.LINKS_CODES in call.user.scopes else without_codes(snapshot)

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "PUT",
                _LINK,
                "startLink",
                "Link a WhatsApp account, or ask for another code; else harmless while a link lives",
                self.start,
                LinkAccepted,
                202,
                Scope.LINKS_WRITE,
                body=LinkRequest,
                traced=True,
                problems=(
                    "phone_number_invalid",
                    "too_many_links",
                    "rate_limited",
                    "outbox_full",
                    "outbox_unavailable",
                    "store_unavailable",
                    "client_outdated",
                    "banned",
                    "another_number_linked",
                    "shutting_down",
                ),
            ),
            Route(
                "GET",
                "/api/bots",
                "listBots",
                "The caller's bots that have a link",
                self.list,
                BotList,
                scope=Scope.LINKS_READ,
            ),
            Route("GET", _LINK, "readLink", "What is true of a link now", self.read, Snapshot, scope=Scope.LINKS_READ),
            Route(
                "DELETE",
                _LINK,
                "endLink",
                "Log out: remove the device from the account",
                self.log_out,
                Snapshot,
                scope=Scope.LINKS_WRITE,
                traced=True,
                problems=("link_not_found", "outbox_unavailable", "store_unavailable", "shutting_down"),
            ),
            Route(
                "POST",
                f"{_LINK}/simulate",
                "simulate",
                "Move the simulated phone (simulated driver only)",
                self.simulate,
                Snapshot,
                scope=Scope.LINKS_WRITE,
                body=SimulateRequest,
                traced=True,
                problems=("not_simulated", "link_not_found", "action_impossible"),
            ),
        )


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
