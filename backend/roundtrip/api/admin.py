"""The admin application: metrics, health, faults, the debug routes and the console, and the key to them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from roundtrip.api.debug.console import Console, Links
from roundtrip.api.debug.page import ConsolePage
from roundtrip.api.debug.routes import DebugRoutes, send_browsers_on
from roundtrip.api.debug.sessions import AdminAccess, Sessions
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.health import Readiness
from roundtrip.api.middleware import RequestGuard
from roundtrip.api.routes import BodyLimits, Call, Dispatcher, Route
from roundtrip.api.schemas import FaultParameter, Health
from roundtrip.faults import FaultList, Faults, FaultView
from roundtrip.limits.connections import ConnectionRules
from roundtrip.outbox.base import Outbox
from roundtrip.sockets.registry import Registry


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
    console: Console | None = None
    on_login: Callable[[str], None] = lambda _result: None

    @classmethod
    def of(cls, console: Console) -> AdminParts:
        """The parts that a console looks at, as the settings combine them."""
        parts = console.parts
        settings, metrics = parts.settings, parts.telemetry.metrics
        return cls(
            metrics.registry,
            parts.sockets,
            parts.links,
            parts.outbox,
            parts.faults,
            parts.readiness,
            None if settings.admin_key is None else settings.admin_key.get_secret_value(),
            TraceViewer(settings.trace_url_template),
            console,
            lambda result: metrics.admin_logins[result].inc(),
        )


def make_admin_app(parts: AdminParts) -> web.Application:
    app = web.Application()
    sessions = Sessions(parts.key, parts.on_login)
    RequestGuard(loopback_only=parts.key is None).install(app)
    send_browsers_on(app)
    AdminAccess(sessions, free=("/healthz", "/readyz")).install(app)
    Dispatcher(None, None, BodyLimits(size=4096)).add(app, admin_routes(parts))
    app.router.add_get("/readyz", parts.readiness.handle)
    app.router.add_get("/metrics", make_aiohttp_handler(parts.metrics))
    DebugRoutes(parts.sockets, parts.links, parts.outbox, parts.viewer, parts.console, sessions).add(app)
    ConsolePage().add(app)
    return app


def admin_routes(parts: AdminParts) -> tuple[Route, ...]:
    async def health(_call: Call) -> msgspec.Struct:
        return Health("ok")

    return (
        Route("GET", "/healthz", "adminHealth", "Whether the event loop answers", health, Health),
        *FaultRoutes(parts.faults).routes("/debug/faults"),
    )
