"""The admin application: its key, metrics, health, faults, and the debug routes (JSON, or pages for a browser)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from roundtrip.api.bots import Links, find_event
from roundtrip.api.debug import pages
from roundtrip.api.debug.timeline import TraceViewer, timeline
from roundtrip.api.health import Readiness
from roundtrip.api.middleware import RequestGuard
from roundtrip.api.problems import Problem
from roundtrip.api.routes import BodyLimits, Call, Dispatcher, Route
from roundtrip.api.schemas import ApiModel, FaultParameter, Health, LedgerEvent, ledger_event
from roundtrip.faults import FaultList, Faults, FaultView
from roundtrip.identity import BotKey
from roundtrip.limits.connections import ConnectionRules
from roundtrip.links.payloads import LinkView
from roundtrip.outbox.base import Outbox
from roundtrip.settings import Settings
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
            raise Problem("link_not_found", "This process has no such link.", 404)
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


ADMIN_CONNECTIONS: Final = ConnectionRules(connections=256, per_address=256, reserve=8, serve_reserve=True)
"""The admin listener has few clients, and is needed most when the public one is full."""


@dataclass(frozen=True, slots=True)
class AdminParts:
    """The parts of the admin application. `readiness` serves `/readyz`; without a `key` none is demanded."""

    metrics: CollectorRegistry
    sockets: Registry
    links: Links
    outbox: Outbox
    faults: Faults
    readiness: Readiness
    key: str | None = None
    viewer: TraceViewer = field(default_factory=TraceViewer)

    @classmethod
    def of(
        cls,
        settings: Settings,
        metrics: CollectorRegistry,
        sockets: Registry,
        links: Links,
        outbox: Outbox,
        faults: Faults,
        readiness: Readiness,
    ) -> AdminParts:
        """The parts as the settings combine them."""
        key = None if settings.admin_key is None else settings.admin_key.get_secret_value()
        viewer = TraceViewer(settings.trace_url_template)
        return cls(metrics, sockets, links, outbox, faults, readiness, key, viewer)


def make_admin_app(parts: AdminParts) -> web.Application:
    app = web.Application()
    RequestGuard(loopback_only=parts.key is None).install(app)
    if parts.key is not None:
        AdminKey(parts.key, free=("/healthz", "/readyz")).install(app)
    Dispatcher(None, None, BodyLimits(size=4096)).add(app, admin_routes(parts))
    app.router.add_get("/readyz", parts.readiness.handle)
    app.router.add_get("/metrics", make_aiohttp_handler(parts.metrics))
    DebugRoutes(parts.sockets, parts.links, parts.outbox, parts.viewer).add(app)
    return app


def admin_routes(parts: AdminParts) -> tuple[Route, ...]:
    async def health(_call: Call) -> msgspec.Struct:
        return Health("ok")

    return (
        Route("GET", "/healthz", "adminHealth", "Whether the event loop answers", health, Health),
        *FaultRoutes(parts.faults).routes("/debug/faults"),
    )


class AdminKey:
    """Middleware that demands the key, as a bearer token (Prometheus) or as the password of basic auth (browsers)."""

    def __init__(self, key: str, free: Collection[str]) -> None:
        """`free` are paths that need no key: probes have none. Raises `ValueError` for an empty key, which any request
        would match."""
        if not key:
            raise ValueError("an empty key opens to everybody")
        self._digest = _digest(key)
        self._free = frozenset(free)

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def require_key(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path not in self._free and not self._accepts(request.headers.get("Authorization", "")):
                raise Problem(
                    "unauthorized",
                    "The admin key is needed.",
                    401,
                    headers={"WWW-Authenticate": 'Basic realm="roundtrip admin", charset="UTF-8"'},
                )
            return await handler(request)

        return require_key

    def _accepts(self, authorization: str) -> bool:
        key = _key_in(authorization)
        return key is not None and hmac.compare_digest(_digest(key), self._digest)


def _key_in(authorization: str) -> str | None:
    """The bearer token or the basic password of an `Authorization` header, None without one."""
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                decoded = base64.b64decode(rest.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return None
            return decoded.partition(":")[2]
        case _:
            return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
