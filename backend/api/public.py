"""The public application: the API and the page. Socket.IO is attached to it by whoever runs it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from backend.api.body import BodyLimits
from backend.api.callers import Callers
from backend.api.events import EventRoutes
from backend.api.fault_routes import FaultRoutes
from backend.api.links import LinkRoutes
from backend.api.page import Page
from backend.api.ports import Ledger, Links, RequestTracer
from backend.api.routes import Call, Dispatcher, Route
from backend.api.shapes import Config, Health
from backend.api.shield import Shield
from backend.api.socket_gate import SocketGate
from backend.api.timeline import TraceViewer
from backend.faults import Faults
from backend.limits import Limits
from backend.links.script import SimulateAction
from backend.proxies import Proxies


@dataclass(frozen=True, slots=True)
class PublicParts:
    """What the public application is made of. `driver` is the WhatsApp driver's name; without `limits` callers are
    not counted."""

    links: Links
    ledger: Ledger
    callers: Callers
    faults: Faults
    driver: str
    trusted: bool
    tracer: RequestTracer | None = None
    cors_origins: Collection[str] = ()
    viewer: TraceViewer = field(default_factory=TraceViewer)
    body_limits: BodyLimits = field(default_factory=BodyLimits)
    limits: Limits | None = None
    proxies: Proxies = field(default_factory=Proxies)
    page: Page = field(default_factory=Page)


def routes(parts: PublicParts) -> tuple[Route, ...]:
    """Every row of the public API."""
    rows = (
        *LinkRoutes(parts.links, parts.ledger, parts.limits).routes(),
        *EventRoutes(parts.ledger, parts.viewer).routes(),
        *_common(parts),
    )
    if parts.trusted and parts.faults.allowed:
        rows += FaultRoutes(parts.faults).routes("/api/faults")
    return rows


def _common(parts: PublicParts) -> tuple[Route, ...]:
    simulated = parts.driver == "simulated"
    config = Config(
        "trusted" if parts.trusted else "jwt",
        parts.driver,
        parts.trusted and parts.faults.allowed,
        tuple(SimulateAction) if simulated else (),
    )

    async def read_config(_call: Call) -> msgspec.Struct:
        return config

    async def health(_call: Call) -> msgspec.Struct:
        return Health("ok")

    return (
        Route("GET", "/api/config", "readConfig", "How this backend identifies callers and links", read_config, Config),
        Route("GET", "/healthz", "health", "Whether the event loop answers", health, Health),
    )


def make_public_app(parts: PublicParts) -> web.Application:
    """The application, ready for Socket.IO to be attached and a listener to be started."""
    app = web.Application(client_max_size=parts.body_limits.size)
    Shield(cors_origins=parts.cors_origins, loopback_only=parts.trusted).install(app)
    SocketGate(parts.proxies, parts.limits, parts.body_limits.seconds).install(app)
    Dispatcher(parts.callers, parts.tracer, parts.body_limits).add(app, routes(parts))
    parts.page.add(app)
    return app
