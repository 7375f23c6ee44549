"""A link service for tests: with a stepped clock, a scripted driver, a publisher that can fail, and a real store."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from roundtrip.drivers.base import Driver, Online, PairSucceeded, QrShown, Report, SessionSpec
from roundtrip.errors import StorageError
from roundtrip.events import LinkRow, Payload
from roundtrip.identity import BotKey
from roundtrip.links.link import Link
from roundtrip.links.record import LinkState
from roundtrip.links.service import LinkService
from roundtrip.links.store import LinkStore
from roundtrip.settings import Settings
from roundtrip.telemetry.tracing import NEVER, Contexts, RequestTracer

_T = TypeVar("_T")

KEY = BotKey.parse("user-1", "bot-1")
OTHER = BotKey.parse("user-2", "bot-1")
PHONE = "+14155550142"
NAME = "Ada Costa"
ONLINE = Online(PHONE, NAME)
QR = QrShown("2@secret,a,b,c", 1, 6, 60.0)


class FakeClock:
    """Stands still until `advance`; `step` sets the wall clock alone, as an administrator may. Times are in seconds."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        self.offset = 0.0
        """Wall clock minus monotonic clock, beside their common start."""
        self._order = itertools.count()
        self._calls: list[tuple[float, int, Call]] = []

    def now(self) -> float:
        return self._now + self.offset

    def monotonic(self) -> float:
        return self._now

    def step(self, seconds: float) -> None:
        self.offset += seconds

    def call_later(self, delay: float, callback: Callable[[], None]) -> Call:
        call = Call(callback)
        heapq.heappush(self._calls, (self._now + delay, next(self._order), call))
        return call

    async def sleep(self, delay: float) -> None:
        over = asyncio.Event()
        call = self.call_later(delay, over.set)
        try:
            await over.wait()
        finally:
            call.cancel()

    async def advance(self, seconds: float) -> None:
        """Advance both clocks; each timer that falls due on the way runs at its own time."""
        end = self._now + seconds
        await settle()
        while self._calls and self._calls[0][0] <= end:
            due, _, call = heapq.heappop(self._calls)
            if call.callback is None:
                continue
            self._now = max(self._now, due)
            call.callback()
            await settle()
        self._now = end
        await settle()


class Call:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class CountingStore(LinkStore):
    """Counts its jobs, so that `settle` knows when there is none left."""

    calls = 0

    async def _run(self, work: Callable[..., _T], *args: object) -> _T:
        self.calls += 1
        return await super()._run(work, *args)

    async def drain(self) -> None:
        """Return once the thread has done every job."""
        await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)


open_stores: set[CountingStore] = set()


async def settle() -> None:
    """Run the loop until only timers are left, the store's thread included."""
    quiet = 0
    while quiet < 2:
        before = sum(store.calls for store in open_stores)
        for _ in range(12):
            await asyncio.sleep(0)
        for store in list(open_stores):
            await store.drain()
        quiet = quiet + 1 if sum(store.calls for store in open_stores) == before else 0


class FakeSession:
    def __init__(self, driver: FakeDriver, spec: SessionSpec, report: Callable[[Report], None]) -> None:
        self.driver = driver
        self.spec = spec
        self.report = report
        self.stopped = False
        self.logged_out = False
        self.is_alive: bool | None = False
        self.logout_fails = False
        self.pid = 4242

    async def stop(self) -> None:
        self.stopped = True

    async def logout(self) -> None:
        if self.logout_fails:
            raise OSError("dead")
        self.logged_out = True

    async def alive(self) -> bool | None:
        return self.is_alive


class FakeDriver:
    name = "fake"

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.start_fails = False
        self.gate: asyncio.Event | None = None

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> FakeSession:
        if self.start_fails:
            raise OSError("no process")
        if self.gate is not None:
            await self.gate.wait()
        session = FakeSession(self, spec, report)
        self.sessions.append(session)
        return session

    async def close(self) -> None:
        for session in self.sessions:
            await session.stop()

    def of(self, link_id: str) -> FakeSession:
        """The newest session of a link."""
        return next(s for s in reversed(self.sessions) if s.spec.link_id == link_id)


class FakePublisher:
    def __init__(self) -> None:
        self.published: list[tuple[BotKey, Payload]] = []
        self.fails: StorageError | None = None
        self.full = False
        self.calls: list[dict[str, Any]] = []

    async def check(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def publish(
        self,
        key: BotKey,
        link_id: str,
        payload: Payload,
        *,
        expires_at: int | None,
        traceparent: str | None,
        state: LinkRow | None = None,
    ) -> None:
        if self.fails is not None:
            raise self.fails
        await asyncio.sleep(0)
        self.published.append((key, payload))
        self.calls.append({"link_id": link_id, "expires_at": expires_at, "traceparent": traceparent})

    def types(self, key: BotKey = KEY) -> list[str]:
        return [type(payload).__name__ for owner, payload in self.published if owner == key]

    @property
    def last(self) -> Any:
        return self.published[-1][1]


class RecordingMetrics:
    def __init__(self) -> None:
        self.transitions: list[tuple[str, str]] = []
        self.pairings: list[float] = []
        self.restarts = 0
        self.flaps = 0
        self.corrections = 0

    def transition(self, to: LinkState, reason: str) -> None:
        self.transitions.append((to.value, str(reason)))

    def pairing_seconds(self, seconds: float) -> None:
        self.pairings.append(seconds)

    def restart(self) -> None:
        self.restarts += 1

    def flap(self) -> None:
        self.flaps += 1

    def correction(self) -> None:
        self.corrections += 1


def settings(data_dir: Path, **changes: Any) -> Settings:
    return Settings(auth="trusted", data_dir=data_dir, **changes)


class Stage:
    """A service with a fake driver, publisher and clock, and a real store."""

    def __init__(self, data_dir: Path, driver: Driver | None = None, **changes: Any) -> None:
        self.clock = FakeClock()
        self.driver = FakeDriver()
        self.publisher = FakePublisher()
        self.metrics = RecordingMetrics()
        self.settings = settings(data_dir, **changes)
        self.store = CountingStore(data_dir)
        self.service = LinkService(
            driver or self.driver, self.publisher, self.store, self.settings, self.metrics, self.clock, self._tracer()
        )

    def _tracer(self) -> RequestTracer:
        self.spans = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON)  # as the program's: what is rare is always recorded
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        return RequestTracer(Contexts(NEVER), provider.get_tracer("test"))

    @property
    def exits(self) -> list[str]:
        """How the sessions ended so far, by their spans."""
        ended = (span.attributes or {} for span in self.spans.get_finished_spans() if span.name == "worker")
        return [str(attributes["roundtrip.worker.exit"]) for attributes in ended]

    def session(self, key: BotKey = KEY) -> FakeSession:
        link_id = self.service.snapshot(key).link_id
        assert link_id is not None
        return self.driver.of(link_id)

    def state(self, key: BotKey = KEY) -> LinkState:
        return self.service.snapshot(key).state

    async def report(self, *reports: Report, key: BotKey = KEY) -> None:
        for report in reports:
            self.session(key).report(report)
        await settle()

    async def start(self, key: BotKey = KEY, phone: str | None = None) -> None:
        await self.service.start(key, phone)
        await settle()

    async def connect(self, key: BotKey = KEY, phone: str = PHONE) -> None:
        """Link an account until it is connected."""
        await self.start(key)
        write_key_file(self.session(key).spec.store)
        self.session(key).is_alive = True
        await self.report(QR, PairSucceeded(phone), Online(phone, NAME), key=key)
        assert self.state(key) is LinkState.CONNECTED


def link_of(stage: Stage, key: BotKey = KEY) -> Link:
    """A key's link, from the inside."""
    return stage.service._links[key]


def running_timers(clock: FakeClock) -> int:
    """How many timers are set."""
    return sum(call.callback is not None for _, _, call in clock._calls)


def write_key_file(path: Path) -> None:
    """A valid key file, without a device."""
    db = sqlite3.connect(path)
    with db:
        db.execute("CREATE TABLE IF NOT EXISTS device (jid TEXT)")
        db.executemany("INSERT INTO device VALUES (?)", [("x" * 100,)] * 200)
    db.close()


@asynccontextmanager
async def staged(
    data_dir: Path, driver: Driver | None = None, restore: bool = True, **changes: Any
) -> AsyncIterator[Stage]:
    """An open service; closed at the end."""
    stage = Stage(data_dir, driver, **changes)
    open_stores.add(stage.store)
    try:
        await stage.service.open()
        if restore:
            await stage.service.restore()
        yield stage
    finally:
        open_stores.discard(stage.store)
        await stage.service.close()
