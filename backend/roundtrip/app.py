"""The program: which parts there are, the order in which they start, and how they stop. The first file to read.

```
WhatsApp driver → links → courier → outbox, then sockets → receipt or acknowledgement → outbox
```
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

import structlog
from aiohttp import web

from roundtrip.api.admin import AdminParts, make_admin_app
from roundtrip.api.debug.timeline import TraceViewer
from roundtrip.api.health import Health, ReadyChecks
from roundtrip.api.listener import Port, PortRules, listen
from roundtrip.api.public import PublicParts, make_public_app
from roundtrip.api.requests import BodyLimits, CallerIdentification
from roundtrip.auth.authenticators import make_authenticator
from roundtrip.auth.service_keys import ServiceKeys
from roundtrip.backoff import Backoff
from roundtrip.clock import SYSTEM, WatchedClock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.delivery.replay import Replayer
from roundtrip.drivers.base import Driver
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.drivers.simulated.driver import SimulatedDriver
from roundtrip.drivers.simulated.flapper import Flapper
from roundtrip.errors import StorageError
from roundtrip.events import EventType
from roundtrip.faults import FaultError, Faults
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.rates import Limits, Rules
from roundtrip.links.machine import Reason
from roundtrip.links.metrics import LinkCounters
from roundtrip.links.record import LinkState
from roundtrip.links.service import LinkService, snapshots
from roundtrip.links.store import LinkStore
from roundtrip.outbox.base import ledger_reading
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.runtime import release, room_for
from roundtrip.settings import Settings
from roundtrip.sockets.access import Admission, SocketAccess
from roundtrip.sockets.messages import SocketCounters
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer
from roundtrip.telemetry import pipeline
from roundtrip.telemetry.context import Vocabulary

log = structlog.get_logger(__name__)

RETRY_CAP: Final = 60.0
"""Most seconds between two attempts at a client that does not acknowledge."""

LAST_ACKS: Final = 2.0
"""Seconds that a stop waits for acknowledgements that are under way."""

DRAIN: Final = 2.0
"""Seconds over which a stop closes its clients."""

ADMIN_PORT: Final = PortRules(connections=256, per_address=256, reserve=8, serve_reserve=True)
"""Few need the admin listener, and they need it most when the public one is full."""


class StartError(Exception):
    """The program cannot start; the message is one line for the person who started it."""


class Backend:
    """All parts. `start` makes them in the order in which they need each other; whatever it entered is left in reverse,
    by `stop` as well as after a start that failed half way."""

    def __init__(self, settings: Settings, driver: Driver | None = None) -> None:
        """`driver` stands in for the one that the settings name, for tests."""
        self.settings = settings
        self._driver = driver
        self._entered = AsyncExitStack()
        self.url = ""
        self.admin_url = ""

    async def start(self) -> None:
        """Start every part, the listeners last; links are restored afterwards. Raises `StartError`."""
        try:
            async with AsyncExitStack() as stack:
                self._start_telemetry(stack)
                await self._start_delivery(stack)
                await self._start_links(stack)
                self._start_faults(stack)
                self._start_sockets(stack)
                await self._listen(stack)
                self._start_tasks(stack)
                self._entered = stack.pop_all()
        except (StorageError, FaultError, OSError) as error:
            raise StartError(str(error)) from error
        settings = self.settings
        log.info("started", url=self.url, admin=self.admin_url, driver=settings.whatsapp_driver, auth=settings.auth)

    async def stop(self) -> None:
        """Stop cleanly: no newcomers, last acknowledgements, clients told in batches, workers, outbox, telemetry."""
        log.info("stopping", sockets=len(self.registry))
        await self._entered.aclose()

    # the phases of a start, each with what ends it

    def _start_telemetry(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        hash_key = settings.pii_hash_key
        self.telemetry = pipeline.start(
            vocabulary(),
            release(),
            level=settings.log_level,
            format_=settings.log_format,
            hash_key=None if hash_key is None else hash_key.get_secret_value(),
        )
        stack.push_async_callback(self.telemetry.close)
        stack.callback(log.info, "stopped")
        self.telemetry.watch_loop()

    async def _start_delivery(self, stack: AsyncExitStack) -> None:
        settings, metrics, journal = self.settings, self.telemetry.metrics, self.telemetry.journal
        self.faults = Faults(allowed=settings.auth == "trusted" or settings.allow_faults)
        self.outbox = SqliteOutbox(
            settings.data_dir, retention=settings.outbox_retention, max_bytes=settings.outbox_max_bytes, clock=SYSTEM
        )
        self.clock = WatchedClock(SYSTEM)
        self.outbox.on_write = metrics.outbox_write.observe
        self.outbox.on_error = metrics.task_failures.inc
        self.outbox.count_failures(metrics.outbox_failures.inc)
        await self.outbox.start()
        stack.push_async_callback(self.outbox.close)
        metrics.ledger.read = ledger_reading(self.outbox)
        self.registry = Registry()
        metrics.presence.sockets = self.registry.by_transport
        metrics.presence.mapped_keys = lambda: self.registry.mapped_keys
        self.courier = Courier(
            self.outbox,
            self.registry,
            journal,
            DeliveryCounters(metrics, journal.kept),
            self.faults,
            event_ttl=settings.event_ttl,
            ack_timeout=settings.ack_timeout,
            backoff=Backoff(settings.ack_timeout, max(RETRY_CAP, settings.ack_timeout)),
            clock=self.clock,
        )
        stack.callback(self.courier.close)
        self.clock.on_step += [self.outbox.moved, self.courier.moved, lambda _ns: metrics.clock_steps.inc()]
        self.clock.start()
        stack.callback(self.clock.stop)

    async def _start_links(self, stack: AsyncExitStack) -> None:
        settings, metrics = self.settings, self.telemetry.metrics
        self.store = LinkStore(settings.data_dir)
        self.links = LinkService(
            self._driver or make_driver(settings),
            self.courier,
            self.store,
            settings,
            LinkCounters(metrics),
            tracer=self.telemetry.tracer,
        )
        stack.push_async_callback(self.links.close)
        await self.links.open()
        metrics.links_restoring.set_function(lambda: self.links.restoring.total - self.links.restoring.done)
        metrics.links_crashing.set_function(lambda: self.links.crashing)
        metrics.presence.links = lambda: {state.value: count for state, count in self.links.counts().items()}

    def _start_faults(self, stack: AsyncExitStack) -> None:
        gauges = self.telemetry.metrics.fault_active
        self.faults.subscribe(lambda name, active: gauges[name].set(active))
        self.faults.subscribe(self._play_outbox_fault)
        self.flapper = Flapper(self.faults, self.links)
        stack.callback(self.flapper.stop)
        self.faults.subscribe(self.flapper.switched)
        self.faults.apply(self.settings.faults)

    def _play_outbox_fault(self, _name: str, _active: bool) -> None:
        self.outbox.fault_delay = self.faults.slow_outbox or 0.0
        self.outbox.fault_down = self.faults.outbox_down

    def _start_sockets(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.identity = make_authenticator(settings)
        stack.push_async_callback(self.identity.close)
        self.limits = Limits(Rules.of(settings), self._count_refusal)
        admission = Admission(self.identity, self.limits)
        replayer = Replayer(
            self.outbox,
            self.courier,
            self.telemetry.journal,
            snapshots(self.links),
            watermark=settings.send_queue_limit // 2,
            clock=self.clock,
        )
        self.sockets = SocketServer(
            self.registry,
            self.courier,
            replayer,
            admission,
            SocketCounters(self.telemetry.metrics),
            self.faults,
            cors_origins=settings.cors_origins,
            max_sockets_per_key=settings.max_sockets_per_key,
            send_queue_limit=settings.send_queue_limit,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            max_packet=settings.max_packet,
            door=SocketAccess(admission.identify, self.limits, settings.token_grace),
        )
        stack.push_async_callback(self.sockets.close)

    async def _listen(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.readiness = ReadyChecks(self.outbox, self.store, settings.data_dir)
        gauges = self.telemetry.metrics.ready
        self.health = Health(self.readiness.checks(), lambda check, ok: gauges[check].set(ok))
        viewer = TraceViewer(settings.trace_url_template)
        proxies = Proxies(settings.forwarded_allow_ips)
        admin = await self._serve(
            self._admin_app(viewer), settings.admin_host, settings.admin_port, self._port(ADMIN_PORT), stack
        )
        rules = PortRules(
            room_for(settings.max_connections), settings.max_connections_per_address, settings.header_timeout
        )
        public = await self._serve(
            self._public_app(viewer, proxies), settings.host, settings.port, self._port(rules, proxies), stack
        )
        self.admin_url, self.url = url_of(admin), url_of(public)
        stack.push_async_callback(self.links.close)  # workers end while the admin listener still answers
        stack.push_async_callback(self._drain, public)

    def _public_app(self, viewer: TraceViewer, proxies: Proxies) -> web.Application:
        settings = self.settings
        keys = settings.api_keys
        trusted = settings.auth == "trusted"
        services = ServiceKeys() if keys is None else ServiceKeys.parse(keys.get_secret_value())
        app = make_public_app(
            PublicParts(
                links=self.links,
                ledger=self.outbox,
                callers=CallerIdentification(self.identity, services, trusted=trusted),
                faults=self.faults,
                driver=settings.whatsapp_driver,
                trusted=trusted,
                tracer=self.telemetry.tracer,
                cors_origins=settings.cors_origins,
                viewer=viewer,
                limits=self.limits,
                proxies=proxies,
                body_limits=BodyLimits(settings.max_body, settings.max_json_depth, settings.body_timeout),
            )
        )
        self.sockets.attach(app)
        return app

    def _admin_app(self, viewer: TraceViewer) -> web.Application:
        key = self.settings.admin_key
        return make_admin_app(
            AdminParts(
                metrics=self.telemetry.metrics.registry,
                sockets=self.registry,
                links=self.links,
                ledger=self.outbox,
                faults=self.faults,
                ready=self.health,
                key=None if key is None else key.get_secret_value(),
                viewer=viewer,
            )
        )

    def _port(self, rules: PortRules, proxies: Proxies | None = None) -> Port:
        return Port(rules, proxies, self._count_refusal, self._count_malformed)

    async def _serve(
        self, app: web.Application, host: str, number: int, port: Port, stack: AsyncExitStack
    ) -> web.AppRunner:
        runner = await listen(app, host, number, port, shutdown_timeout=1.0)
        stack.push_async_callback(runner.cleanup)
        return runner

    def _count_refusal(self, limit: str) -> None:
        self.telemetry.metrics.rate_limited[limit].inc()

    def _count_malformed(self, reason: str) -> None:
        self.telemetry.metrics.malformed_requests[reason].inc()

    def _start_tasks(self, stack: AsyncExitStack) -> None:
        """What runs until the stop; a task that dies is never silent."""
        self.readiness.restore = asyncio.create_task(self.links.restore(), name="restore")
        tasks = (
            asyncio.create_task(self.sockets.sweep(), name="socket-sweep"),
            self.readiness.restore,
            asyncio.create_task(self.health.watch(), name="readiness"),
        )
        for task in tasks:
            task.add_done_callback(self._task_ended)
            stack.callback(task.cancel)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A background task that dies is never silent."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.telemetry.metrics.task_failures.inc()
            log.error("task_died", task=task.get_name(), exc_info=error)

    async def _drain(self, public: web.AppRunner) -> None:
        """No newcomers; what is under way is confirmed, then each client is told in its turn."""
        self.readiness.draining = True
        for site in list(public.sites):
            await site.stop()
        await self._last_acks()
        await self.sockets.drain(DRAIN if len(self.registry) > 1 else 0.0)

    async def _last_acks(self) -> None:
        """Give what is under way a moment to be confirmed."""
        deadline = asyncio.get_running_loop().time() + LAST_ACKS
        while self.courier.in_flight() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # at the end only
            await asyncio.sleep(0.05)


def url_of(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def vocabulary() -> Vocabulary:
    """The label values of metrics, from the enums that own them; where those have numbers, a value's place is it."""
    return Vocabulary(
        event_types=tuple(type_.wire for type_ in EventType),
        outcomes=tuple(outcome.wire for outcome in Outcome if outcome is not Outcome.PENDING),
        miss_reasons=tuple(MissReason),
        link_states=tuple(LinkState),
        transition_reasons=frozenset(Reason),
    )


def make_driver(settings: Settings) -> Driver:
    """The driver that the settings name."""
    if settings.whatsapp_driver == "simulated":
        return SimulatedDriver(settings.simulated_speed, settings.simulated_scan_after)
    return NeonizeDriver(settings.whatsapp_proxy, code_life=settings.pairing_timeout, device_name=settings.device_name)
