"""The public application: the API's routes, the demo page with its libraries, and the middlewares around both.

Of the disk only the files of the page's table are reachable.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from roundtrip.api.admin import FaultRoutes
from roundtrip.api.bots import EventRoutes, LinkRoutes, Links
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.libraries import MISSING, NODE_MODULES, library
from roundtrip.api.middleware import RequestGuard, SocketRequestGuard
from roundtrip.api.problems import Problem
from roundtrip.api.routes import BodyLimits, Call, Dispatcher, Route, Tracer
from roundtrip.api.schemas import Config, Health
from roundtrip.auth.authenticators import Authenticator, CallerIdentification
from roundtrip.auth.service_keys import ServiceKeys
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.faults import Faults
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.rates import Limits
from roundtrip.outbox.base import Outbox
from roundtrip.settings import Settings

_PACKAGE: Final = Path(__file__).resolve().parents[1]
WEB: Final = _PACKAGE / "web"

VENDOR: Final = {
    "socket.io.esm.min.js": "socket.io-client/dist/socket.io.esm.min.js",
    "socket.io.esm.min.js.map": "socket.io-client/dist/socket.io.esm.min.js.map",
    "qrcode.mjs": "qrcode-generator/dist/qrcode.mjs",
}
"""Libraries of the page by their served name; paths are within `node_modules`."""

_CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


class Page:
    """Serves the demo page at `/`, its files at `/static/…` and its libraries at `/vendor/…`."""

    def __init__(self, web_folder: Path = WEB, node_modules: Path = NODE_MODULES) -> None:
        self._files = {
            path.name: path for path in web_folder.glob("*") if path.suffix in _CONTENT_TYPES and path.is_file()
        }
        self._vendor = {name: library(path, node_modules) for name, path in VENDOR.items()}

    def add(self, app: web.Application) -> None:
        app.router.add_get("/", self._index)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/vendor/{name}", self._library)

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        missing = [path for name, path in VENDOR.items() if name.endswith("js") and not self._vendor[name].is_file()]
        if missing:
            return web.Response(text=MISSING.format(names=", ".join(missing)), status=503, content_type="text/html")
        return _file(self._files.get("index.html"))

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return _file(self._files.get(request.match_info["name"]))

    async def _library(self, request: web.Request) -> web.StreamResponse:
        path = self._vendor.get(request.match_info["name"])
        if path is not None and not path.is_file():
            raise Problem(
                "page_libraries_missing", "The page's libraries are not installed: run `make run`, or `npm ci`.", 404
            )
        return _file(path)


def _file(path: Path | None) -> web.StreamResponse:
    if path is None:
        raise Problem("not_found", "There is nothing at this address.", 404)
    return web.FileResponse(path, headers={"Content-Type": _CONTENT_TYPES[path.suffix], "Cache-Control": "no-cache"})


@dataclass(frozen=True, slots=True)
class PublicParts:
    """What the public application is made of. `driver` is the WhatsApp driver's name; without `limits` callers are
    not counted."""

    links: Links
    outbox: Outbox
    callers: CallerIdentification
    faults: Faults
    driver: str
    trusted: bool
    tracer: Tracer | None = None
    cors_origins: Collection[str] = ()
    viewer: TraceViewer = field(default_factory=TraceViewer)
    body_limits: BodyLimits = field(default_factory=BodyLimits)
    limits: Limits | None = None
    proxies: Proxies = field(default_factory=Proxies)
    page: Page = field(default_factory=Page)

    @classmethod
    def of(
        cls,
        settings: Settings,
        links: Links,
        outbox: Outbox,
        identity: Authenticator,
        faults: Faults,
        tracer: Tracer,
        limits: Limits,
        proxies: Proxies,
    ) -> PublicParts:
        """The parts as the settings combine them."""
        trusted = settings.auth == "trusted"
        keys = settings.api_keys
        services = ServiceKeys() if keys is None else ServiceKeys.parse(keys.get_secret_value())
        return cls(
            links,
            outbox,
            CallerIdentification(identity, services, trusted=trusted),
            faults,
            settings.whatsapp_driver,
            trusted,
            tracer,
            settings.cors_origins,
            TraceViewer(settings.trace_url_template),
            BodyLimits(settings.max_body, settings.max_json_depth, settings.body_timeout),
            limits,
            proxies,
        )


def make_public_app(parts: PublicParts) -> web.Application:
    """The application, ready for Socket.IO to be attached and a listener to be started."""
    app = web.Application(client_max_size=parts.body_limits.size)
    on_refused = None if parts.limits is None else parts.limits.refused
    RequestGuard(
        cors_origins=parts.cors_origins,
        loopback_only=parts.trusted,
        loopback_origins=parts.trusted,
        on_refused=on_refused,
    ).install(app)
    SocketRequestGuard(parts.proxies, parts.limits, parts.body_limits.seconds).install(app)
    Dispatcher(parts.callers, parts.tracer, parts.body_limits, on_refused).add(app, public_routes(parts))
    parts.page.add(app)
    return app


def public_routes(parts: PublicParts) -> tuple[Route, ...]:
    """Every row of the public API."""
    rows = (
        *LinkRoutes(parts.links, parts.outbox, parts.limits).routes(),
        *EventRoutes(parts.outbox, parts.viewer).routes(),
        *_process_routes(parts),
    )
    if parts.trusted and parts.faults.allowed:
        rows += FaultRoutes(parts.faults).routes("/api/faults")
    return rows


def _process_routes(parts: PublicParts) -> tuple[Route, ...]:
    """What is known of the process itself: its configuration, and that it answers."""
    config = Config(
        "trusted" if parts.trusted else "jwt",
        parts.driver,
        parts.trusted and parts.faults.allowed,
        tuple(SimulateAction) if parts.driver == "simulated" else (),
    )

    async def read_config(_call: Call) -> msgspec.Struct:
        return config

    async def health(_call: Call) -> msgspec.Struct:
        return Health("ok")

    return (
        Route("GET", "/api/config", "readConfig", "How this backend identifies callers and links", read_config, Config),
        Route("GET", "/healthz", "health", "Whether the event loop answers", health, Health),
    )
