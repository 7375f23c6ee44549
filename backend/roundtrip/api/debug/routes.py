"""The developer's pages: JSON for programs, HTML when a browser asks. Admin listener only, for they name users."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from roundtrip.api.debug import pages as debug_pages
from roundtrip.api.debug.timeline import TraceViewer, timeline
from roundtrip.api.events import find
from roundtrip.api.problems import Problem
from roundtrip.api.public import WEB
from roundtrip.api.schemas import ApiModel, Ledger, LedgerEvent, Links, SocketMap, ledger_event
from roundtrip.identity import BotKey
from roundtrip.links.payloads import LinkView

EVENTS_OF_A_LINK = 200
"""The newest events of a link that its page shows."""


class LinkList(ApiModel, frozen=True):
    links: tuple[LinkView, ...]


class LinkStory(ApiModel, frozen=True):
    """A link and what was said about it, the newest last."""

    link: LinkView
    events: tuple[LedgerEvent, ...]


class Debug:
    def __init__(self, sockets: SocketMap, links: Links, ledger: Ledger, viewer: TraceViewer) -> None:
        self._sockets = sockets
        self._links = links
        self._ledger = ledger
        self._viewer = viewer

    def add(self, app: web.Application) -> None:
        app.router.add_get("/debug/sockets", self._show_sockets)
        app.router.add_get("/debug/links", self._show_links)
        app.router.add_get("/debug/links/{link_id}", self._show_link)
        app.router.add_get("/debug/events/{event_id}", self._show_event)
        app.router.add_get("/debug/style.css", self._style)

    async def _show_sockets(self, request: web.Request) -> web.Response:
        view = self._sockets.view()
        return _answer(request, view, lambda: debug_pages.sockets(view))

    async def _show_links(self, request: web.Request) -> web.Response:
        links = tuple(self._links.links())
        return _answer(request, LinkList(links), lambda: debug_pages.links(links))

    async def _show_link(self, request: web.Request) -> web.Response:
        wanted = request.match_info["link_id"]
        link = next((link for link in self._links.links() if link.link_id == wanted), None)
        if link is None:
            raise Problem("link_not_found", "There is no such link in this process.", 404)
        key = BotKey.parse(link.user_id, link.bot_id)
        newest = await self._ledger.last_seq(key)
        entries = await self._ledger.ledger(key, max(0, newest - EVENTS_OF_A_LINK), EVENTS_OF_A_LINK)
        events = tuple(ledger_event(entry) for entry in entries if entry.link_id == wanted)
        return _answer(request, LinkStory(link, events), lambda: debug_pages.link(link, events))

    async def _show_event(self, request: web.Request) -> web.Response:
        story = timeline(await find(self._ledger, request.match_info["event_id"]), self._viewer)
        return _answer(request, story, lambda: debug_pages.event(story, self._viewer))

    async def _style(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(WEB / "debug.css", headers={"Content-Type": "text/css; charset=utf-8"})


def wants_html(request: web.Request) -> bool:
    """A browser names text/html; a program that takes anything gets JSON."""
    return "text/html" in request.headers.get("Accept", "")


def _answer(request: web.Request, data: msgspec.Struct, draw: Callable[[], str]) -> web.Response:
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if wants_html(request):
        return web.Response(text=draw(), content_type="text/html", headers=headers)
    return web.Response(body=msgspec.json.encode(data), content_type="application/json", headers=headers)
