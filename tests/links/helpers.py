"""A clock that tests turn, a driver that does as told, a publisher that can fail."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from roundtrip.drivers.base import Driver, Online, PairSucceeded, QrShown, Report, SessionSpec
from roundtrip.errors import StorageError
from roundtrip.events import Payload
from roundtrip.identity import BotKey
from roundtrip.links.record import LinkState
from roundtrip.links.service import LinkService
from roundtrip.links.store import LinkStore
from roundtrip.settings import Settings

_T = TypeVar("_T")

KEY = BotKey.parse("user-1", "bot-1")
OTHER = BotKey.parse("user-2", "bot-1")
PHONE = "+14155550142"
NAME = "Ada Costa"
ONLINE = Online(PHONE, NAME)
QR = QrShown("2@secret,a,b,c", 1, 6, 60.0)


class FakeClock:
    """Time stands still until `pass_` turns it; `step` sets the wall clock alone, as somebody may."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        self._set_by = 0.0
        self._order = itertools.count()
        self._calls: list[tuple[float, int, Call]] = []

    def now(self) -> float:
        return self._now + self._set_by

    def monotonic(self) -> float:
        return self._now

    def step(self, seconds: float) -> None:
        self._set_by += seconds

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

    async def pass_(self, seconds: float) -> None:
        """Turn the clock, letting everything happen that falls due on the way."""
        end = self._now + seconds
        await calm()
        while self._calls and self._calls[0][0] <= end:
            due, _, call = heapq.heappop(self._calls)
            if call.callback is None:
                continue
            self._now = max(self._now, due)
            call.callback()
            await calm()
        self._now = end
        await calm()


class Call:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class BusyStore(LinkStore):
    """Counts its work, so that a test knows when none is left."""

    calls = 0

    async def _run(self, work: Callable[..., _T], *args: object) -> _T:
        self.calls += 1
        return await super()._run(work, *args)

    async def rest(self) -> None:
        """Return once the thread has done what it was given."""
        await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)


_stores: set[BusyStore] = set()


async def calm() -> None:
    """Let the loop run until nothing moves by itself any more, the store's thread included."""
    quiet = 0
    while quiet < 2:
        before = sum(store.calls for store in _stores)
        for _ in range(12):
            await asyncio.sleep(0)
        for store in list(_stores):
            await store.rest()
        quiet = quiet + 1 if sum(store.calls for store in _stores) == before else 0


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
        self.refuses = False
        self.gate: asyncio.Event | None = None
        self.starting = 0
        self.most_starting = 0

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> FakeSession:
        if self.refuses:
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
        self.said: list[tuple[BotKey, Payload]] = []
        self.fails: StorageError | None = None
        self.full = False
        self.calls: list[dict[str, Any]] = []

    async def check(self) -> None:
        if self.fails is not None:
            raise self.fails

    async def publish(
        self, key: BotKey, link_id: str, payload: Payload, *, expires_at: int | None, traceparent: str | None
    ) -> None:
        if self.fails is not None:
            raise self.fails
        await asyncio.sleep(0)
        self.said.append((key, payload))
        self.calls.append({"link_id": link_id, "expires_at": expires_at, "traceparent": traceparent})

    def types(self, key: BotKey = KEY) -> list[str]:
        return [type(payload).__name__ for owner, payload in self.said if owner == key]

    @property
    def last(self) -> Any:
        return self.said[-1][1]


class CountingMeter:
    def __init__(self) -> None:
        self.transitions: list[tuple[str, str]] = []
        self.pairings: list[float] = []
        self.restarts = 0
        self.flaps = 0
        self.corrections = 0
        self.exits: list[str] = []

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

    def worker_exit(self, reason: str) -> None:
        self.exits.append(reason)


def settings(data_dir: Path, **changes: Any) -> Settings:
    return Settings(auth="trusted", data_dir=data_dir, **changes)


class Stage:
    """A service with everything around it faked, but the store."""

    def __init__(self, data_dir: Path, driver: Driver | None = None, **changes: Any) -> None:
        self.clock = FakeClock()
        self.driver = FakeDriver()
        self.publisher = FakePublisher()
        self.meter = CountingMeter()
        self.settings = settings(data_dir, **changes)
        self.store = BusyStore(data_dir)
        self.service = LinkService(
            driver or self.driver, self.publisher, self.store, self.settings, self.meter, self.clock
        )

    def session(self, key: BotKey = KEY) -> FakeSession:
        link_id = self.service.snapshot(key).link_id
        assert link_id is not None
        return self.driver.of(link_id)

    def state(self, key: BotKey = KEY) -> LinkState:
        return self.service.snapshot(key).state

    async def report(self, *reports: Report, key: BotKey = KEY) -> None:
        for report in reports:
            self.session(key).report(report)
        await calm()

    async def start(self, key: BotKey = KEY, phone: str | None = None) -> None:
        await self.service.start(key, phone)
        await calm()

    async def connect(self, key: BotKey = KEY, phone: str = PHONE) -> None:
        """Link an account, all the way."""
        await self.start(key)
        keys_for(self.session(key).spec.store)
        self.session(key).is_alive = True
        await self.report(QR, PairSucceeded(phone), Online(phone, NAME), key=key)
        assert self.state(key) is LinkState.CONNECTED


def keys_for(path: Path) -> None:
    """A key file that passes for one."""
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
    _stores.add(stage.store)
    try:
        await stage.service.open()
        if restore:
            await stage.service.restore()
        yield stage
    finally:
        _stores.discard(stage.store)
        await stage.service.close()
