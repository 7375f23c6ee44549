"""The public application: the API's routes, the demo page with its libraries, and the middlewares around both."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from roundtrip.api.admin import FaultRoutes
from roundtrip.api.bots import EventRoutes, LinkRoutes, Links
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.middleware import RequestGuard, SocketRequestGuard
from roundtrip.api.page import Page
from roundtrip.api.page_traces import PageTraces
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
    page_traces: PageTraces | None = None
    """Takes spans of pages; None takes none."""
    shared_store: bool = False

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
        page_traces: PageTraces | None = None,
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
            page_traces=page_traces,
            shared_store=settings.store is not None,
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
    parts.page.add(app, config_of(parts))
    return app


def public_routes(parts: PublicParts) -> tuple[Route, ...]:
    """Every row of the public API."""
    rows = (
        *LinkRoutes(parts.links, parts.outbox, parts.limits).routes(),
        *EventRoutes(parts.outbox, parts.viewer).routes(),
        *(parts.page_traces or PageTraces(parts.outbox)).routes(),
        *_process_routes(parts),
    )
    if parts.trusted and parts.faults.allowed:
        rows += FaultRoutes(parts.faults).routes("/api/faults")
    return rows


def config_of(parts: PublicParts) -> Config:
    """What the page needs to know of the backend it came from."""
    return Config(
        "trusted" if parts.trusted else "jwt",
        parts.driver,
        parts.trusted and parts.faults.allowed,
        tuple(SimulateAction) if parts.driver == "simulated" else (),
        parts.page_traces is not None and parts.page_traces.on,
        parts.shared_store,
    )


def _process_routes(parts: PublicParts) -> tuple[Route, ...]:
    """What is known of the process itself: its configuration, and that it answers."""
    config = config_of(parts)

    async def read_config(_call: Call) -> msgspec.Struct:
        return config

    async def health(_call: Call) -> msgspec.Struct:
        return Health("ok")

    return (
        Route("GET", "/api/config", "readConfig", "How this backend identifies callers and links", read_config, Config),
        Route("GET", "/healthz", "health", "Whether the event loop answers", health, Health),
    )
