"""The program: which parts there are, in which order they start, and how they stop. The first file to read.

```
WhatsApp driver → links → courier → outbox, then sockets → receipt or acknowledgement → outbox
```

The phases of a start, in order. Each makes its parts from those before it and pushes what ends them onto one exit
stack; a stop, or a start that fails half way, unwinds the stack, so that the last phase ends first.

| phase            | makes                                                           | ends with                     |
|------------------|-----------------------------------------------------------------|-------------------------------|
| _start_telemetry | logs, metrics, traces, the lag of the event loop                | last exports                  |
| _start_delivery  | fault switches, outbox, registry of sockets, courier, its clock | timers ended, outbox flushed  |
| _start_links     | WhatsApp driver, link store, link service                       | workers ended                 |
| _start_faults    | what follows the switches: gauges, outbox, flapping links       | flapping ended                |
| _start_sockets   | identity, limits, replay, Socket.IO server                      | sockets closed                |
| _start_admin     | readiness; listener of metrics, health and the console          | listener closed               |
| _start_public    | listener of the API, the page and Socket.IO                     | clients drained, then workers |
| _start_tasks     | restore of links, sweep of sockets, readiness gauge, canary     | tasks cancelled               |
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Final

import structlog
from aiohttp import web

from roundtrip.api.admin import ADMIN_CONNECTIONS, AdminParts, make_admin_app
from roundtrip.api.debug.console import Console, ConsoleParts
from roundtrip.api.durations import observe_durations
from roundtrip.api.health import Readiness, ReadinessChecks
from roundtrip.api.listener import listen, url_of
from roundtrip.api.page_traces import PageTraces
from roundtrip.api.public import PublicParts, make_public_app
from roundtrip.api.reference import Reference
from roundtrip.api.spec.openapi import documents
from roundtrip.auth.authenticators import make_authenticator
from roundtrip.backoff import Backoff
from roundtrip.canary.probe import CanaryProbe
from roundtrip.clock import SYSTEM
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.delivery.replay import Replayer
from roundtrip.drivers.base import Driver, observe
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.drivers.simulated.driver import SimulatedDriver
from roundtrip.drivers.simulated.flapper import Flapper
from roundtrip.drivers.simulated.hosts import HostKiller
from roundtrip.errors import StartError, StorageError
from roundtrip.faults import FaultError, Faults
from roundtrip.label_sets import label_sets
from roundtrip.limits.addresses import Proxies
from roundtrip.limits.connections import ConnectionLimits, ConnectionRules
from roundtrip.limits.rates import Limits, Rules
from roundtrip.links.metrics import LinkCounters, read_links
from roundtrip.outbox.base import ledger_reading
from roundtrip.runtime import connection_capacity, program_version
from roundtrip.settings import Settings
from roundtrip.sockets.access import Admission, SocketAccess
from roundtrip.sockets.messages import SocketCounters, node_answer
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer
from roundtrip.stores import open_stores
from roundtrip.telemetry import setup
from roundtrip.watched_clock import WatchedClock

log = structlog.get_logger(__name__)

MAX_RETRY_DELAY: Final = 60.0
"""Most seconds between two attempts at a client that does not acknowledge."""
ACK_GRACE: Final = 2.0
"""Seconds that a stop waits for acknowledgements that are under way."""
DRAIN_TIME: Final = 2.0
"""Seconds over which a stop closes its clients."""


class Backend:
    """All parts of one process."""

    def __init__(self, settings: Settings, driver: Driver | None = None) -> None:
        """`driver` replaces the one that the settings name, for tests."""
        self.settings = settings
        self.url = self.admin_url = ""
        self._driver = driver
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Start every part; links are restored after this returned. Raises `StartError`."""
        try:
            async with AsyncExitStack() as stack:
                self._start_telemetry(stack)
                await self._start_delivery(stack)
                await self._start_links(stack)
                self._start_faults(stack)
                self._start_sockets(stack)
                await self._start_admin(stack)
                await self._start_public(stack)
                self._start_tasks(stack)
                self._stack = stack.pop_all()
        except (StorageError, FaultError, OSError) as error:
            raise StartError(str(error)) from error
        driver = self.settings.whatsapp_driver
        log.info("started", url=self.url, admin=self.admin_url, driver=driver, auth=self.settings.auth)

    async def stop(self) -> None:
        """End every part, the listeners first and telemetry last."""
        log.info("stopping", sockets=len(self.registry))
        await self._stack.aclose()

    def _start_telemetry(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        hash_key = settings.pii_hash_key
        self.telemetry = setup.start(
            label_sets(),
            program_version(),
            level=settings.log_level,
            format_=settings.log_format,
            hash_key=None if hash_key is None else hash_key.get_secret_value(),
            node_id=settings.node_id,
            ring_bytes=settings.trace_ring_bytes,
        )
        stack.push_async_callback(self.telemetry.close)
        stack.callback(log.info, "stopped")
        self.telemetry.watch_loop()

    async def _start_delivery(self, stack: AsyncExitStack) -> None:
        settings, metrics, event_spans = self.settings, self.telemetry.metrics, self.telemetry.event_spans
        self.faults = Faults(allowed=settings.faults_allowed)
        self.stores = await open_stores(settings, stack)
        self.stores.observe(metrics.cluster)
        self.outbox = self.stores.outbox
        self.clock = WatchedClock(SYSTEM)
        self.outbox.on_write = metrics.outbox_write.observe
        self.outbox.on_error = metrics.task_failures.inc
        self.outbox.count_failures(metrics.outbox_failures.inc)
        metrics.outbox_batch_age.set_function(self.outbox.batch_age)
        metrics.store_up.set_function(lambda: float(self.outbox.up))
        metrics.set_limits(event_ttl=settings.event_ttl, outbox_bytes=settings.outbox_max_bytes)
        await self.outbox.start()
        stack.push_async_callback(self.outbox.close)
        metrics.ledger.read = ledger_reading(self.outbox)
        self.registry = Registry()
        metrics.presence.sockets = self.registry.by_transport
        metrics.presence.mapped_keys = lambda: self.registry.mapped_keys
        self.courier = Courier(
            self.outbox,
            self.registry,
            event_spans,
            DeliveryCounters(metrics, event_spans.exemplar, ack_timeout=settings.ack_timeout),
            self.faults,
            event_ttl=settings.event_ttl,
            ack_timeout=settings.ack_timeout,
            backoff=Backoff(settings.ack_timeout, max(MAX_RETRY_DELAY, settings.ack_timeout)),
            clock=self.clock,
        )
        stack.callback(self.courier.close)
        await self.stores.share(self.registry, self.courier, stack)
        metrics.pending_with_socket.set_function(self.courier.longest_wait)
        self.clock.on_step += [self.outbox.moved, self.courier.moved, lambda _ns: metrics.clock_steps.inc()]
        self.clock.start()
        stack.callback(self.clock.stop)

    async def _start_links(self, stack: AsyncExitStack) -> None:
        settings, metrics = self.settings, self.telemetry.metrics
        driver = self._driver = self._driver or make_driver(settings)
        metrics.workers.read = observe(driver, self.telemetry.tracer, lambda cause: metrics.worker_exits[cause].inc())
        self.links = self.stores.service(
            self.stores.bind(driver),
            self.courier,
            self.stores.links,
            settings,
            LinkCounters(metrics),
            tracer=self.telemetry.tracer,
            watched=lambda key: bool(self.registry.of(key)),
        )
        stack.push_async_callback(self.links.close)
        await self.links.open()
        self.registry.has_link = self.links.__contains__
        read_links(metrics, self.links)

    def _start_faults(self, stack: AsyncExitStack) -> None:
        self.faults.subscribe(lambda name, active: self.telemetry.metrics.fault_active[name].set(active))
        self.faults.subscribe(self._apply_outbox_faults)
        self.flapper = Flapper(self.faults, self.links)
        stack.callback(self.flapper.stop)
        self.faults.subscribe(self.flapper.switched)
        stack.callback(HostKiller(self.faults, self._driver).stop)
        self.faults.apply(self.settings.faults)

    def _apply_outbox_faults(self, _name: str, _active: bool) -> None:
        self.outbox.fault_delay = self.faults.slow_outbox or 0.0
        self.outbox.fault_down = self.faults.outbox_down

    def _start_sockets(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.identity = make_authenticator(settings)
        stack.push_async_callback(self.identity.close)
        self.limits = Limits(Rules.of(settings), self.telemetry.metrics.count_refusal)
        self.stores.limit_pairing(self.limits.pairing)
        admission, metrics = Admission(self.identity, self.limits), self.telemetry.metrics
        snapshot = self.links.snapshot_at
        canary = settings, self.outbox, self.faults, snapshot, admission, metrics, self.clock
        self.canary = CanaryProbe(*canary, node=self.stores.node or "node")
        replayer = Replayer(
            self.outbox,
            self.courier,
            self.telemetry.event_spans,
            snapshot,
            watermark=settings.send_queue_limit // 2,
            clock=self.clock,
        )
        self.sockets = SocketServer(
            self.registry,
            self.courier,
            replayer,
            self.canary.admission,
            SocketCounters(metrics),
            self.faults,
            cors_origins=settings.cors_origins,
            loopback_origins=settings.auth == "trusted",
            max_sockets_per_key=settings.max_sockets_per_key,
            send_queue_limit=settings.send_queue_limit,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            max_packet=settings.max_packet,
            door=SocketAccess(admission.identify, self.limits, settings.token_grace),
        )
        self.sockets.canary = self.canary.lane.sockets
        if self.stores.node is not None:
            self.sockets.engine.on("node", node_answer(self.stores.node))
        self.sockets.on_refused = self.telemetry.event_spans.refused
        stack.push_async_callback(self.sockets.close)

    async def _start_admin(self, stack: AsyncExitStack) -> None:
        settings, metrics = self.settings, self.telemetry.metrics
        self.checks = ReadinessChecks(self.outbox, self.stores.links, settings.data_dir)
        self.readiness = Readiness(self.checks.all(), lambda check, ok: metrics.ready[check].set(ok))
        looks_at = self.telemetry, self.registry, self.links, self.outbox, self.faults, self.readiness
        self.console = stack.enter_context(Console(ConsoleParts(settings, *looks_at)))
        app = self._admin_app()
        observe_durations(app, metrics.http_request, SYSTEM.monotonic)
        limits = ConnectionLimits(ADMIN_CONNECTIONS, None, metrics.count_refusal, metrics.count_malformed)
        runner = await listen(app, settings.admin_host, settings.admin_port, limits, settings="ADMIN_")
        stack.push_async_callback(runner.cleanup)
        self.admin_url = url_of(runner)

    def _admin_app(self) -> web.Application:
        return make_admin_app(AdminParts.of(self.console))

    async def _start_public(self, stack: AsyncExitStack) -> None:
        settings, metrics, proxies = self.settings, self.telemetry.metrics, Proxies(self.settings.forwarded_allow_ips)
        looks_at = self.links, self.outbox, self.identity, self.faults, self.telemetry.tracer, self.limits, proxies
        to = self.telemetry.event_spans if settings.browser_traces else None
        spans = PageTraces(self.outbox, to, metrics.count_page_spans, self.limits, proxies)
        app = make_public_app(PublicParts.of(settings, *looks_at, spans))
        Reference(documents).add(app)
        self.sockets.attach(app)
        observe_durations(app, self.telemetry.metrics.http_request, SYSTEM.monotonic)
        rules = ConnectionRules.of(settings, connection_capacity(settings.max_connections))
        limits = ConnectionLimits(rules, proxies, metrics.count_refusal, metrics.count_malformed)
        runner = await listen(app, settings.host, settings.port, limits)
        stack.push_async_callback(runner.cleanup)
        self.url = url_of(runner)
        stack.push_async_callback(self.links.close)  # workers end while the admin listener still answers
        stack.push_async_callback(self._drain, runner)

    async def _drain(self, public: web.AppRunner) -> None:
        """Accept no more, let deliveries under way be confirmed, then close the clients one after the other."""
        self.checks.draining = True
        for site in list(public.sites):
            await site.stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ACK_GRACE
        while self.courier.in_flight() and loop.time() < deadline:  # noqa: ASYNC110  # at the end only
            await asyncio.sleep(0.05)
        await self.sockets.drain(DRAIN_TIME if len(self.registry) > 1 else 0.0)

    def _start_tasks(self, stack: AsyncExitStack) -> None:
        create = asyncio.create_task
        self.checks.restore = restore = create(self.links.restore(), name="restore")
        sweep = create(self.sockets.sweep(), name="socket-sweep")
        for task in (restore, sweep, create(self.readiness.poll(), name="readiness")):
            task.add_done_callback(self._on_task_done)
            stack.callback(task.cancel)
        self.canary.start(self.url, self._on_task_done)
        stack.push_async_callback(self.canary.stop)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Log and count a background task that failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.telemetry.metrics.task_failures.inc()
            log.error("task_died", task=task.get_name(), exc_info=error)


def make_driver(settings: Settings) -> Driver:
    """The driver that the settings name."""
    return SimulatedDriver.of(settings) if settings.whatsapp_driver == "simulated" else NeonizeDriver.of(settings)
