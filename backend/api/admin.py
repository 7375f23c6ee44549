"""The admin application: metrics, health, debug pages, faults. Never on the public listener."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from backend.api import health
from backend.api.admin_key import AdminKey
from backend.api.body import BodyLimits
from backend.api.debug import Debug
from backend.api.fault_routes import FaultRoutes
from backend.api.ports import Ledger, Links, SocketMap
from backend.api.routes import Call, Dispatcher, Route
from backend.api.shapes import Health as Alive
from backend.api.shield import Shield
from backend.api.timeline import TraceViewer
from backend.faults import Faults


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What the admin application is made of. `ready` answers `/readyz`; `key` None asks nobody."""

    metrics: CollectorRegistry
    sockets: SocketMap
    links: Links
    ledger: Ledger
    faults: Faults
    ready: health.Health
    key: str | None = None
    viewer: TraceViewer = field(default_factory=TraceViewer)


def make_admin_app(parts: AdminParts) -> web.Application:
    app = web.Application()
    Shield(loopback_only=parts.key is None).install(app)
    if parts.key is not None:
        AdminKey(parts.key, free=("/healthz", "/readyz")).install(app)
    Dispatcher(None, None, BodyLimits(size=4096)).add(app, routes(parts))
    app.router.add_get("/readyz", parts.ready.answer)
    app.router.add_get("/metrics", make_aiohttp_handler(parts.metrics))
    Debug(parts.sockets, parts.links, parts.ledger, parts.viewer).add(app)
    return app


def routes(parts: AdminParts) -> tuple[Route, ...]:
    async def alive(_call: Call) -> msgspec.Struct:
        return Alive("ok")

    return (
        Route("GET", "/healthz", "adminHealth", "Whether the event loop answers", alive, Alive),
        *FaultRoutes(parts.faults).routes("/debug/faults"),
    )
