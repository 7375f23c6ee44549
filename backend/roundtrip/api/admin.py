"""The admin application: metrics, health, debug pages, faults. Never on the public listener."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from roundtrip.api import health
from roundtrip.api.debug.routes import Debug
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.faults import FaultRoutes
from roundtrip.api.middleware import RequestGuard
from roundtrip.api.problems import Problem
from roundtrip.api.requests import BodyLimits
from roundtrip.api.routes import Call, Dispatcher, Route
from roundtrip.api.schemas import Health as Alive
from roundtrip.api.schemas import Ledger, Links, SocketMap
from roundtrip.faults import Faults


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
    RequestGuard(loopback_only=parts.key is None).install(app)
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


class AdminKey:
    """Asks for the key: as a bearer token (Prometheus), or as the password that a browser asks its user for."""

    def __init__(self, key: str, free: Collection[str]) -> None:
        """`free` are paths that need no key: probes have none. Raises `ValueError` for an empty key, which would let
        everybody in."""
        if not key:
            raise ValueError("an empty key opens to everybody")
        self._digest = _digest(key)
        self._free = frozenset(free)

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path not in self._free and not self._opens(request.headers.get("Authorization", "")):
                raise Problem(
                    "unauthorized",
                    "The admin key is needed.",
                    401,
                    headers={"WWW-Authenticate": 'Basic realm="roundtrip admin", charset="UTF-8"'},
                )
            return await handler(request)

        return ask

    def _opens(self, authorization: str) -> bool:
        given = _given(authorization)
        return given is not None and hmac.compare_digest(_digest(given), self._digest)


def _given(authorization: str) -> str | None:
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
