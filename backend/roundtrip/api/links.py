"""Links over HTTP: start, look, end, and what the simulated phone does."""

from __future__ import annotations

from collections import Counter

import msgspec

from roundtrip.api.routes import Call, Route
from roundtrip.api.schemas import Ledger, LinkAccepted, LinkRequest, Links, SimulateRequest
from roundtrip.auth.service_keys import Scope
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits
from roundtrip.links.payloads import Snapshot, without_codes

_LINK = "/api/bots/{bot_id}/link"


class LinkRoutes:
    def __init__(self, links: Links, ledger: Ledger, limits: Limits | None) -> None:
        self._links = links
        self._ledger = ledger
        self._limits = limits
        self._starting: Counter[BotKey] = Counter()
        """Starts under way: a second one for the same bot is the same pairing."""

    async def start(self, call: Call) -> msgspec.Struct:
        key = call.key()
        phone_number = call.says(LinkRequest).phone_number
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

    async def look(self, call: Call) -> msgspec.Struct:
        return await self._with_seq(call, self._links.snapshot(call.key()))

    async def end(self, call: Call) -> msgspec.Struct:
        return await self._with_seq(call, await self._links.logout(call.key()))

    async def simulate(self, call: Call) -> msgspec.Struct:
        action = call.says(SimulateRequest).action
        return await self._with_seq(call, await self._links.simulate(call.key(), action))

    async def _with_seq(self, call: Call, snapshot: Snapshot) -> Snapshot:
        if Scope.LINKS_CODES not in call.user.scopes:
            snapshot = without_codes(snapshot)
        return msgspec.structs.replace(snapshot, seq=await self._ledger.last_seq(call.key()))

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
            Route("GET", _LINK, "readLink", "What is true of a link now", self.look, Snapshot, scope=Scope.LINKS_READ),
            Route(
                "DELETE",
                _LINK,
                "endLink",
                "Log out: remove the device from the account",
                self.end,
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
