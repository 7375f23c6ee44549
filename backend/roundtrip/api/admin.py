"""The admin application: metrics, health, debug pages, faults. Never on the public listener."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from roundtrip.api.debug.routes import DebugRoutes, FaultRoutes
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.health import Readiness
from roundtrip.api.links import Links
from roundtrip.api.middleware import RequestGuard
from roundtrip.api.problems import Problem
from roundtrip.api.routes import BodyLimits, Call, Dispatcher, Route
from roundtrip.api.schemas import Health
from roundtrip.faults import Faults
from roundtrip.limits.connections import ConnectionRules
from roundtrip.outbox.base import Outbox
from roundtrip.settings import Settings
from roundtrip.sockets.registry import Registry

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
