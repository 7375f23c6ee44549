"""The whole path from an event to its confirmation, on real parts, over memory connections, under one stepped clock.

Courier, replay, registry, socket server, engine and the SQLite outbox are the program's own. Only the network is
replaced (`memory_wire.py`), and the clock. `settle` runs until nothing moves any more: what is seen then has one
cause, the last thing that the test did.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web

from roundtrip.backoff import Backoff
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.replay import Replayer
from roundtrip.events import Payload
from roundtrip.identity import BotKey, Principal, parse_user_id
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import LedgerEntry, StoredEvent
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.sockets.access import Handshake, SocketAccess
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import SocketServer
from roundtrip.watched_clock import WatchedClock
from tests.support.gated_outbox import GatedOutbox
from tests.support.memory_client import MemoryClient
from tests.support.memory_wire import MemoryTransport
from tests.support.sockets import Faults, Notes, idle
from tests.support.stepped_loop import SteppedLoop
from tests.support.stepped_time import stepped_time

T = TypeVar("T")

REAL_SECONDS: Final = 30.0
"""What a thread of the program may take for anything at all."""


class Rest(threading.Event):
    """In place of the event on which the outbox's thread waits: no real time wakes it, and one can see it wait."""

    def __init__(self) -> None:
        super().__init__()
        self._waits = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set. The time of the stepped clock does not pass by itself."""
        if timeout is not None and timeout <= 0:
            return self.is_set()
        self._waits.set()
        try:
            return super().wait()
        finally:
            self._waits.clear()

    def look(self) -> None:
        """Have the thread look at the clock and its queue, and return when it waits again."""
        self.set()
        deadline = time.monotonic() + REAL_SECONDS
        while self.is_set() or not self._waits.is_set():  # in this order: whoever waits with it unset has looked
            assert time.monotonic() < deadline, "the outbox's thread never came to rest"
            time.sleep(0.0001)


class CountingLoop(SteppedLoop):
    """Knows whether anything was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]  # handed on
        self.calls += 1
        return super().call_soon(*args, **kwargs)

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]  # as above
        self.calls += 1
        return super().call_soon_threadsafe(*args, **kwargs)

    def next_timer(self) -> float | None:
        """When the next timer is due, on the loop's clock."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # no public way to ask
        return min((timer.when() for timer in scheduled if not timer.cancelled()), default=None)


class World:
    """One life of the program after another on one data folder. Use it as a context manager."""

    def __init__(self, folder: Path, **options: Any) -> None:
        """`options` are settings of the parts that this test wants otherwise, see `_start`."""
        self.folder = folder / "life-0"
        self.folder.mkdir()
        self.options = options
        self.loop = CountingLoop()
        self.clock = self.loop.clock
        self.notes = Notes()
        self.clients: list[MemoryClient] = []
        self.lives = 0
        self.commits = 0
        self.on_stored: Callable[[StoredEvent | OutboxError], None] = lambda _result: None
        self._stack = ExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> World:
        self._stack.enter_context(stepped_time(self.clock, "engineio", "roundtrip"))
        try:
            self.start()
        except BaseException:
            self.loop.close()
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.loop.close()
            self._stack.close()

    # a life

    def start(self) -> None:
        self.loop.run(self._start())
        self.settle()

    async def _start(self) -> None:
        option = self.options.get
        clock = self.clock
        self.faults = Faults()
        self.sqlite = SqliteOutbox(self.folder, sweep_every=1.0, clock=clock)
        self.sqlite.on_write = self._committed
        self._rest = self.sqlite._writer._inbox._wake = Rest()
        self.outbox = GatedOutbox(self.sqlite)
        self.outbox.on_stored = self.on_stored
        self.watched = WatchedClock(clock)
        self.registry = Registry(clock.monotonic)
        self.courier = Courier(
            self.outbox,
            self.registry,
            self.notes,
            self.notes,
            self.faults,
            event_ttl=option("event_ttl", 120.0),
            ack_timeout=option("ack_timeout", 5.0),
            backoff=Backoff(5.0, 20.0),
            clock=self.watched,
        )
        self.watched.on_step += [self.outbox.moved, self.courier.moved]
        self.watched.start()
        limit = option("send_queue_limit", 1 << 20)
        self.replayer = Replayer(self.outbox, self.courier, self.notes, idle, watermark=limit // 2, clock=self.watched)
        self.server = SocketServer(
            self.registry,
            self.courier,
            self.replayer,
            self._admit,
            self.notes,
            self.faults,
            cors_origins=(),
            max_sockets_per_key=option("max_sockets_per_key", 16),
            send_queue_limit=limit,
            ping_interval=option("ping_interval", 25),
            ping_timeout=option("ping_timeout", 20),
            max_packet=65_536,
            door=SocketAccess(self._admit, None, option("grace", 10.0), clock.wall),
            clock=clock,
        )
        app = web.Application()
        self.server.attach(app)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self.runner.setup()
        await self.outbox.start()
        self.sweep = asyncio.create_task(self.server.sweep())

    async def _admit(self, shake: Handshake) -> Principal:
        """Whoever says who they are is believed; a token is the second at which it ends."""
        end = shake.token if isinstance(shake.token, int | float) else None
        return Principal(parse_user_id(shake.user_id), expires_at=end)

    def _committed(self, _seconds: float) -> None:
        self.commits += 1

    def stop(self) -> None:
        """As `Backend.stop` does it, the clients last."""
        self.outbox.open()
        self.sweep.cancel()
        self.finish(self._stop())
        for client in self.clients:
            client.vanish()
        self.settle_loop()
        self.clients.clear()
        self.loop.run(_cancel_all())

    async def _stop(self) -> None:
        await self.server.drain(0.0)
        await self.server.close()
        self.courier.close()
        self.watched.stop()
        await self.runner.cleanup()
        await self.outbox.close()

    def restart(self) -> None:
        self.stop()
        self.lives += 1
        self.start()

    def crash(self) -> None:
        """As `kill -9`: the next life finds what is on the disk now, and nobody said goodbye."""
        self.settle()
        copy = self.folder.parent / f"life-{self.lives + 1}"
        copy.mkdir()
        for path in self.folder.iterdir():
            if path.name.startswith("outbox.db"):
                shutil.copy(path, copy / path.name)
        for client in self.clients:
            client.vanish()
        self.stop()
        self.folder = copy
        self.lives += 1
        self.start()

    # time

    def settle(self) -> None:
        """Run until nothing moves: no turn of the loop is asked for, and the writer has nothing to do."""
        for _ in range(10_000):
            before = self._moves()
            self._look()
            if self._moves() == before:
                return
        raise AssertionError("the program never came to rest")

    def _look(self) -> None:
        self.settle_loop()
        self._rest.look()
        self.settle_loop()

    def _moves(self) -> tuple[object, ...]:
        heard = sum(len(client.log) for client in self.clients)
        return self.commits, heard, self.outbox.arrived, len(self.registry), self.sqlite.totals()

    def settle_loop(self) -> None:
        """Run the loop alone until it asks for nothing more."""
        self.loop.run(self._turns())

    async def _turns(self) -> None:
        quiet = 0
        while quiet < 3:
            before = self.loop.calls
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.loop.calls - before <= 1 else 0  # the one is this sleep's own

    def advance(self, seconds: float) -> None:
        """Time passes, from one timer to the next."""
        end = self.clock.monotonic() + seconds
        while True:
            now = self.clock.monotonic()
            due = self.loop.next_timer()
            if due is None or due >= end:
                break
            self.clock.advance(max(0.0, due - now) + 1e-6)
            self._look()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))
        self.settle()

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something to its end, letting time pass where it waits for that."""
        task = self.loop.create_task(work)
        for _ in range(10_000):
            self.settle_loop()
            if task.done():
                return task.result()
            due = self.loop.next_timer()
            if due is not None and due - self.clock.monotonic() < 5.0:
                self.clock.advance(max(0.0, due - self.clock.monotonic()) + 1e-6)
            else:
                time.sleep(0.0001)  # a thread is at work
        raise AssertionError("it never ended")

    # who connects

    def client(self, user: str = "user", bot: str = "bot", *, polling: bool = False, **auth: Any) -> MemoryClient:
        """A client on its way in; `settle` lets it arrive."""
        server = self.runner.server
        assert server is not None

        async def made() -> MemoryClient:
            return MemoryClient(partial(_dial, server), {"userId": user, "botId": bot, **auth}, polling=polling)

        client = self.loop.run(made())
        self.clients.append(client)
        return client

    # what the ledger says

    def ledger(self, key: BotKey) -> list[LedgerEntry]:
        return self.loop.run(self.sqlite.ledger(key, 0, 100_000))

    def publish(self, key: BotKey, payload: Payload, expires_at: int | None = None) -> None:
        """Publish an event and see to nothing: `settle` lets it arrive. `expires_at` is milliseconds from the epoch."""

        async def publish() -> None:
            with suppress(OutboxError):  # the test is told by `on_stored`
                await self.courier.publish(key, "link", payload, expires_at=expires_at)

        task = self.loop.create_task(publish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def call_soon(self, work: Callable[[], object]) -> None:
        """Run something in the next turn of the loop: `settle` lets it happen."""
        self.loop.call_soon(work)

    def call(self, work: Callable[[], T]) -> T:
        """Run something on the loop, then let it settle."""

        async def run() -> T:
            return work()

        result = self.loop.run(run())
        self.settle()
        return result


def _dial(server: Callable[[], Any], deliver: Callable[[bytes], None], gone: Callable[[], None]) -> MemoryTransport:
    return MemoryTransport(server(), deliver, gone)


async def _cancel_all() -> None:
    """As `asyncio.run` does at the end of a program."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
