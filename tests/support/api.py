"""The two HTTP applications on real ports, over an outbox in memory and fake links."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry, Counter

from roundtrip.api.admin import AdminParts, make_admin_app
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.health import Readiness, ReadyCheck
from roundtrip.api.listener import listen
from roundtrip.api.page_traces import PageTraces
from roundtrip.api.public import PublicParts, make_public_app
from roundtrip.api.routes import BodyLimits
from roundtrip.auth.authenticators import Authenticator, CallerIdentification, TrustedAuthenticator
from roundtrip.auth.service_keys import ServiceKeys
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.events import Connecting, Payload
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.connections import ConnectionLimits, ConnectionRules
from roundtrip.limits.rates import Limits
from roundtrip.links.machine import LIVE
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.memory import MemoryOutbox
from roundtrip.outbox.records import Draft, StoredEvent
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.event_spans import EventSpanRecorder
from roundtrip.telemetry.tracing import NEVER, Contexts

SINCE = "2026-01-01T00:00:00.000Z"


class FakeLinks:
    """Records its commands; `error` is raised by the next one."""

    def __init__(self) -> None:
        self.states: dict[BotKey, LinkState] = {}
        self.commands: list[tuple[str, BotKey, str | None]] = []
        self.traceparents: list[str | None] = []
        self.error: Exception | None = None
        self.codes: dict[BotKey, tuple[str | None, str | None]] = {}
        """A key's QR and pairing code."""

    async def start(self, key: BotKey, phone_number: str | None, traceparent: str | None) -> Snapshot:
        self._record("start", key, phone_number)
        self.traceparents.append(traceparent)
        self.states.setdefault(key, LinkState.CONNECTING)
        return self.snapshot(key)

    def begins_pairing(self, key: BotKey, phone_number: str | None) -> bool:
        return self.snapshot(key).state not in LIVE

    def snapshot(self, key: BotKey) -> Snapshot:
        state = self.states.get(key, LinkState.IDLE)
        link_id = None if state is LinkState.IDLE else f"link-of-{key.bot_id}"
        qr, pairing_code = self.codes.get(key, (None, None))
        return Snapshot(key.user_id, key.bot_id, link_id, state, 0, SINCE, qr=qr, pairing_code=pairing_code)

    async def snapshot_at(self, key: BotKey, seq: int) -> Snapshot:
        return msgspec.structs.replace(self.snapshot(key), seq=seq)

    async def of_user(self, user_id: str) -> Sequence[LinkView]:
        return [view for view in self.links() if view.user_id == user_id]

    async def logout(self, key: BotKey) -> Snapshot:
        self._record("logout", key, None)
        if key not in self.states:
            raise LinkError("link_not_found", "There is no link to end.")
        self.states[key] = LinkState.LOGGED_OUT
        return self.snapshot(key)

    async def simulate(self, key: BotKey, action: SimulateAction) -> Snapshot:
        self._record("simulate", key, action.value)
        return self.snapshot(key)

    def links(self) -> Sequence[LinkView]:
        return [
            LinkView(
                link_id=f"link-of-{key.bot_id}",
                user_id=key.user_id,
                bot_id=key.bot_id,
                state=state,
                since=SINCE,
                restarts=0,
                flaps=0,
                worker_pid=None,
                phone_number="[phone …67]",
                reason_code=None,
                flapping=False,
                waiting=0,
                stalled=False,
            )
            for key, state in self.states.items()
        ]

    def _record(self, command: str, key: BotKey, detail: str | None) -> None:
        self.commands.append((command, key, detail))
        if self.error is not None:
            error, self.error = self.error, None
            raise error


class RecordedSpan:
    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent
        self.attributes: dict[str, str | int] = {}
        self.error: str | None = None

    def set(self, name: str, value: str | int) -> None:
        self.attributes[name] = value

    def fail(self, error_type: str) -> None:
        self.error = error_type


class RecordingTracer:
    """Records the span of each request."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str | None, RecordedSpan]] = []

    @contextmanager
    def span(
        self,
        name: str,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        tracestate: str | None = None,
    ) -> Iterator[RecordedSpan]:
        assert kind is SpanKind.SERVER
        span = RecordedSpan(f"00-{'a' * 32}-{len(self.spans) + 1:016x}-01")
        self.spans.append((name, parent, span))
        yield span


@dataclass
class Api:
    """Both listeners and the parts behind them. `url` and `admin_url` have no slash at their end."""

    url: str
    admin_url: str
    session: aiohttp.ClientSession
    links: FakeLinks
    outbox: MemoryOutbox
    registry: Registry
    faults: Faults
    tracer: RecordingTracer
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)

    async def call(
        self, method: str, path: str, *, user: str | None = "ada", admin: bool = False, **options: Any
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, decoded JSON (or text), headers."""
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers.setdefault("X-User-Id", user)
        base = self.admin_url if admin else self.url
        async with self.session.request(method, base + path, headers=headers, **options) as response:
            body = await response.read()
            data: Any = msgspec.json.decode(body) if "json" in response.content_type and body else body.decode()
            return response.status, data, response.headers

    async def event(self, key: BotKey, payload: Payload | None = None) -> StoredEvent:
        """Store an event as the courier would."""
        return await stored(self.outbox, key, payload or Connecting())


async def stored(outbox: MemoryOutbox, key: BotKey, payload: Payload) -> StoredEvent:
    results: list[StoredEvent | OutboxError] = []
    now = time.time_ns() // 1_000_000
    traceparent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    outbox.append(Draft(key, f"link-of-{key.bot_id}", payload, now, now + 60_000, traceparent), results.append)
    while not results:
        await outbox.last_seq(key)
    assert isinstance(results[0], StoredEvent)
    return results[0]


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """An application on a free loopback port, served as the program does; yields its address."""
    runner = await listen(app, "127.0.0.1", 0, ConnectionLimits(ConnectionRules()), shutdown_timeout=0.1)
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def api(
    *,
    authenticator: Authenticator | None = None,
    services: ServiceKeys | None = None,
    trusted: bool = True,
    allow_faults: bool = True,
    driver: str = "simulated",
    cors_origins: Sequence[str] = (),
    limits: Limits | None = None,
    proxies: Proxies | None = None,
    body_limits: BodyLimits | None = None,
    admin_key: str | None = None,
    ready: Mapping[str, ReadyCheck] | None = None,
    viewer: TraceViewer | None = None,
) -> AsyncIterator[Api]:
    links, outbox, registry, faults = FakeLinks(), MemoryOutbox(), Registry(), Faults(allowed=allow_faults)
    tracer = RecordingTracer()
    metrics = CollectorRegistry()
    Counter("roundtrip_pretended", "A metric.", registry=metrics).inc(exemplar={"trace_id": "abc"})
    public = make_public_app(
        PublicParts(
            links=links,
            outbox=outbox,
            callers=CallerIdentification(
                authenticator or TrustedAuthenticator(), services or ServiceKeys(), trusted=trusted
            ),
            faults=faults,
            driver=driver,
            trusted=trusted,
            tracer=tracer,
            cors_origins=cors_origins,
            viewer=viewer or TraceViewer(),
            body_limits=body_limits or BodyLimits(),
            limits=limits,
            proxies=proxies or Proxies(),
            page_traces=PageTraces(outbox, EventSpanRecorder(Contexts(NEVER), None)),
        )
    )
    admin = make_admin_app(
        AdminParts(
            metrics=metrics,
            sockets=registry,
            links=links,
            outbox=outbox,
            faults=faults,
            readiness=Readiness(ready or {}),
            key=admin_key,
            viewer=viewer or TraceViewer(),
        )
    )
    async with serving(public) as url, serving(admin) as admin_url, aiohttp.ClientSession() as session:
        yield Api(url, admin_url, session, links, outbox, registry, faults, tracer, metrics)
