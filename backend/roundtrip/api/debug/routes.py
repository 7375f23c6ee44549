"""The debug routes: JSON for programs, the console's own routes, and where a browser is sent on to its page."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from roundtrip.api.debug.console import Console, Links
from roundtrip.api.debug.search import Search
from roundtrip.api.debug.sessions import COOKIE, LOGIN, LOGOUT, Sessions, set_cookie
from roundtrip.api.debug.timeline import TraceViewer, find_event, timeline
from roundtrip.api.debug.traces import TraceQuery
from roundtrip.api.problems import Problem
from roundtrip.api.routes import BodyLimits, parse_object, parse_query, read_body
from roundtrip.api.schemas import ApiModel, LedgerEvent, ledger_event
from roundtrip.identity import BotKey
from roundtrip.links.payloads import LinkView
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import LedgerEntry
from roundtrip.sockets.registry import Registry

EVENTS_PER_LINK: Final = 200
"""The newest events that a link's page shows."""

LEFT: Final = 50
"""Sockets that left which a page of sockets shows."""

PASSAGES: Final = 200
"""Comings and goings of one key's story."""

_DEBUG: Final = re.compile(r"/debug/(sockets|links|links/[^/]+|events/[^/]+)")
_Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
_Text = Annotated[str, msgspec.Meta(max_length=256)]


class LinkList(ApiModel, frozen=True):
    links: tuple[LinkView, ...]


class LinkDetail(ApiModel, frozen=True):
    """A link and its events, the newest last."""

    link: LinkView
    events: tuple[LedgerEvent, ...]


class ListQuery(ApiModel, frozen=True):
    """A page of a list: `q` is a part of an id."""

    q: _Text = ""
    state: _Text = ""
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: _Limit = 100


class KeyQuery(ApiModel, frozen=True):
    user: _Text
    bot: _Text | None = None


class SearchQuery(ApiModel, frozen=True):
    q: _Text = ""


class Login(ApiModel, frozen=True):
    key: Annotated[str, msgspec.Meta(max_length=1024)]


class DebugRoutes:
    """What the admin listener answers under `/debug`. Without a console only the JSON of sockets, links and events."""

    def __init__(
        self,
        sockets: Registry,
        links: Links,
        outbox: Outbox,
        viewer: TraceViewer,
        console: Console | None,
        sessions: Sessions,
    ) -> None:
        self._sockets = sockets
        self._links = links
        self._outbox = outbox
        self._viewer = viewer
        self._console = console
        self._sessions = sessions
        self._search = Search(sockets, links, outbox)

    def add(self, app: web.Application) -> None:
        get, post = app.router.add_get, app.router.add_post
        get("/debug/sockets", self._show_sockets)
        get("/debug/links", self._show_links)
        get("/debug/links/{link_id}", self._show_link)
        get("/debug/events/{event_id}", self._show_event)
        post(LOGIN, self._login)
        post(LOGOUT, self._logout)
        if self._console is None:
            return
        get("/debug/console.json", self._state)
        get("/debug/console/stream", self._stream)
        get("/debug/console/sockets", self._page_of_sockets)
        get("/debug/console/links", self._page_of_links)
        get("/debug/console/story", self._story)
        get("/debug/console/search", self._find)
        get("/debug/console/events/{event_id}", self._event_with_traces)
        get("/debug/traces", self._list_traces)
        get("/debug/traces/{trace_id}", self._show_trace)

        async def end_streams(_app: web.Application) -> None:
            self.console.hub.close()

        app.on_shutdown.append(end_streams)

    @property
    def console(self) -> Console:
        if self._console is None:
            raise Problem("not_found", "There is nothing at this address.", 404)
        return self._console

    # JSON for programs

    async def _show_sockets(self, _request: web.Request) -> web.Response:
        return respond(self._sockets.view())

    async def _show_links(self, _request: web.Request) -> web.Response:
        return respond(LinkList(tuple(self._links.links())))

    async def _show_link(self, request: web.Request) -> web.Response:
        link_id = request.match_info["link_id"]
        link = next((link for link in self._links.links() if link.link_id == link_id), None)
        if link is None:
            raise Problem("link_not_found", "There is no such link in this process.", 404)
        key = BotKey.parse(link.user_id, link.bot_id)
        newest = await self._outbox.last_seq(key)
        entries = await self._outbox.ledger(key, max(0, newest - EVENTS_PER_LINK), EVENTS_PER_LINK)
        events = tuple(ledger_event(entry) for entry in entries if entry.link_id == link_id)
        return respond(LinkDetail(link, events))

    async def _show_event(self, request: web.Request) -> web.Response:
        return respond(timeline(await self._entry(request), self._viewer))

    async def _entry(self, request: web.Request) -> LedgerEntry:
        return await find_event(self._outbox, request.match_info["event_id"])

    async def _list_traces(self, request: web.Request) -> web.Response:
        return respond(await self.console.traces.newest(parse_query(request, TraceQuery)))

    async def _show_trace(self, request: web.Request) -> web.Response:
        found = await self.console.traces.one(request.match_info["trace_id"].lower())
        if found is None:
            raise Problem("trace_not_found", "Nothing of this trace is kept here.", 404)
        return respond(found)

    # The console's page

    async def _state(self, request: web.Request) -> web.Response:
        return respond(self._state_for(request))

    def _state_for(self, request: web.Request) -> dict[str, Any]:
        cookie = request.cookies.get(COOKIE)
        token = self._sessions.token(cookie if self._sessions.knows(cookie) else None)
        return self.console.state(token, key_needed=self._sessions.key_needed)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        return await self.console.hub.serve(request, lambda: self._state_for(request))

    async def _page_of_sockets(self, request: web.Request) -> web.Response:
        query = parse_query(request, ListQuery)
        folded = query.q.casefold()
        keys = (
            key
            for key in self._sockets.mapped()
            if not folded or folded in key.user_id.casefold() or folded in key.bot_id.casefold()
        )
        page = [self._sockets.key_view(key) for key in islice(keys, query.offset, query.offset + query.limit + 1)]
        return respond(
            {
                "totals": self._sockets.totals,
                "keys": page[: query.limit],
                "more": len(page) > query.limit,
                "left": self.console.stories.left(LEFT),
            }
        )

    async def _page_of_links(self, request: web.Request) -> web.Response:
        query = parse_query(request, ListQuery)
        folded = query.q.casefold()
        found = [
            link
            for link in self._links.links()
            if (not folded or any(folded in part.casefold() for part in (link.user_id, link.bot_id, link.link_id)))
            and (not query.state or link.state == query.state)
        ]
        page = found[query.offset : query.offset + query.limit]
        rows = [
            {"link": link, "userAction": self._links.snapshot(BotKey(link.user_id, link.bot_id)).user_action}
            for link in page
        ]
        return respond({"total": len(found), "links": rows})

    async def _story(self, request: web.Request) -> web.Response:
        query = parse_query(request, KeyQuery)
        others = self._sockets.keys_of(query.user)
        passages = self.console.stories.of(query.user, query.bot, PASSAGES)
        keys = [self._sockets.key_view(BotKey(query.user, bot)) for bot in others]
        return respond({"keys": keys, "passages": passages})

    async def _find(self, request: web.Request) -> web.Response:
        return respond(await self._search.find(parse_query(request, SearchQuery).q))

    async def _event_with_traces(self, request: web.Request) -> web.Response:
        event = timeline(await self._entry(request), self._viewer)
        traces = await self.console.traces.of_event(event.id, event.trace_id)
        return respond({"event": event, "traces": traces, "miss": self.console.misses.note(event.id)})

    # Sessions

    async def _login(self, request: web.Request) -> web.Response:
        login = parse_object(await read_body(request, BodyLimits(size=4096)), Login, BodyLimits())
        cookie = self._sessions.login(login.key, request.remote or "")
        response = respond({"token": self._sessions.token(cookie)})
        set_cookie(response, cookie, secure=request.secure)
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        self._sessions.logout(request.cookies.get(COOKIE))
        response = respond({})
        response.del_cookie(COOKIE, path="/")
        return response


def respond(data: Any) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(data),
        content_type="application/json",
        headers={"Cache-Control": "no-store", "Vary": "Accept"},
    )


def send_browsers_on(app: web.Application) -> None:
    """A browser that asks for a debug address by itself is sent to the console's page of it: it names text/html, which
    a program that takes anything does not."""

    def target(request: web.Request) -> str | None:
        if "text/html" not in request.headers.get("Accept", ""):
            return None
        match = _DEBUG.fullmatch(request.path)
        return None if match is None else f"/console/{quote(match[1])}"

    app.middlewares.append(_redirecting(target))


def _redirecting(target: Callable[[web.Request], str | None]) -> Middleware:
    @web.middleware
    async def redirect(request: web.Request, handler: Handler) -> web.StreamResponse:
        address = target(request)
        if address is None:
            return await handler(request)
        return web.Response(status=302, headers={"Location": address, "Cache-Control": "no-store", "Vary": "Accept"})

    return redirect
