"""Routes for developers: sockets, links, events and fault switches. Debug pages are served on the admin listener only,
for they name users; they are JSON for programs and HTML for browsers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from roundtrip.api.debug import pages
from roundtrip.api.debug.timeline import TraceViewer, timeline
from roundtrip.api.events import find_event
from roundtrip.api.links import Links
from roundtrip.api.problems import Problem
from roundtrip.api.routes import Call, Route
from roundtrip.api.schemas import ApiModel, FaultParameter, LedgerEvent, ledger_event
from roundtrip.faults import FaultList, Faults, FaultView
from roundtrip.identity import BotKey
from roundtrip.links.payloads import LinkView
from roundtrip.outbox.base import Outbox
from roundtrip.sockets.registry import Registry

EVENTS_PER_LINK: Final = 200
"""The newest events that a link's page shows."""


class LinkList(ApiModel, frozen=True):
    links: tuple[LinkView, ...]


class LinkDetail(ApiModel, frozen=True):
    """A link and its events, the newest last."""

    link: LinkView
    events: tuple[LedgerEvent, ...]


class DebugRoutes:
    def __init__(self, sockets: Registry, links: Links, outbox: Outbox, viewer: TraceViewer) -> None:
        self._sockets = sockets
        self._links = links
        self._outbox = outbox
        self._viewer = viewer

    def add(self, app: web.Application) -> None:
        app.router.add_get("/debug/sockets", self._show_sockets)
        app.router.add_get("/debug/links", self._show_links)
        app.router.add_get("/debug/links/{link_id}", self._show_link)
        app.router.add_get("/debug/events/{event_id}", self._show_event)
        app.router.add_get("/debug/style.css", self._stylesheet)

    async def _show_sockets(self, request: web.Request) -> web.Response:
        view = self._sockets.view()
        return _respond(request, view, lambda: pages.sockets(view))

    async def _show_links(self, request: web.Request) -> web.Response:
        links = tuple(self._links.links())
        return _respond(request, LinkList(links), lambda: pages.links(links))

    async def _show_link(self, request: web.Request) -> web.Response:
        link_id = request.match_info["link_id"]
        link = next((link for link in self._links.links() if link.link_id == link_id), None)
        if link is None:
            raise Problem("link_not_found", "There is no such link in this process.", 404)
        key = BotKey.parse(link.user_id, link.bot_id)
        newest = await self._outbox.last_seq(key)
        entries = await self._outbox.ledger(key, max(0, newest - EVENTS_PER_LINK), EVENTS_PER_LINK)
        events = tuple(ledger_event(entry) for entry in entries if entry.link_id == link_id)
        return _respond(request, LinkDetail(link, events), lambda: pages.link(link, events))

    async def _show_event(self, request: web.Request) -> web.Response:
        event = timeline(await find_event(self._outbox, request.match_info["event_id"]), self._viewer)
        return _respond(request, event, lambda: pages.event(event, self._viewer))

    async def _stylesheet(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(pages.STYLESHEET, headers={"Content-Type": "text/css; charset=utf-8"})


def _respond(request: web.Request, data: msgspec.Struct, render: Callable[[], str]) -> web.Response:
    """A browser names text/html; a program that takes anything gets JSON."""
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if "text/html" in request.headers.get("Accept", ""):
        return web.Response(text=render(), content_type="text/html", headers=headers)
    return web.Response(body=msgspec.json.encode(data), content_type="application/json", headers=headers)


class FaultRoutes:
    """The fault switches: on the admin listener under `/debug/faults`, for the page on loopback under `/api/faults`."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def list(self, _call: Call) -> msgspec.Struct:
        return self._faults.views()

    async def read(self, call: Call) -> msgspec.Struct:
        return self._faults.view(call.path("name"))

    async def switch_on(self, call: Call) -> msgspec.Struct:
        return self._faults.switch_on(call.path("name"), call.body_as(FaultParameter).parameter)

    async def switch_off(self, call: Call) -> msgspec.Struct:
        return self._faults.switch_off(call.path("name"))

    def routes(self, prefix: str) -> tuple[Route, ...]:
        one = f"{prefix}/{{name}}"
        problems = ("fault_unknown", "faults_forbidden")
        return (
            Route("GET", prefix, "listFaults", "Every fault switch, with what one should see", self.list, FaultList),
            Route("GET", one, "readFault", "One fault switch", self.read, FaultView, problems=("fault_unknown",)),
            Route(
                "PUT",
                one,
                "switchFaultOn",
                "Switch a fault on, or change its parameter",
                self.switch_on,
                FaultView,
                body=FaultParameter,
                problems=(*problems, "fault_parameter_invalid"),
            ),
            Route("DELETE", one, "switchFaultOff", "Switch a fault off", self.switch_off, FaultView, problems=problems),
        )
