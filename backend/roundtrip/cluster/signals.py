"""Signals between nodes: "look at the tables", by PostgreSQL's LISTEN and NOTIFY, over one connection of its own.

A signal carries a topic and no data. It may be lost, and then costs time only: whoever waits for one also looks by
itself now and then. After every reconnect each topic's callback is called once, for what was sent in between is gone.
A transaction with NOTIFY takes a lock on the whole database until its commit is written, so signals are few (one for
each target and topic in `PAUSE`) and never part of a transaction that writes anything else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg
import structlog

from roundtrip.outbox.postgres.database import LOST, RETRIES, Database, reason

log = structlog.get_logger(__name__)

PAUSE: Final = 0.02
"""Seconds between two transactions with NOTIFY."""

HEARTBEAT: Final = 5.0
"""Seconds without a signal after which the connection is tested: a network that drops packets says nothing."""

MOST_WAITING: Final = 10_000
"""Signals that wait while the store is away; further ones are dropped."""

_NOTIFY: Final = "SELECT pg_notify(c, t) FROM unnest($1::text[], $2::text[]) AS s (c, t)"


def channel_of(node_id: str) -> str:
    """The channel that a node listens on: an identifier of PostgreSQL, whatever the node's name is."""
    return "roundtrip_" + hashlib.sha256(node_id.encode()).hexdigest()[:32]


class Signals:
    """One node's. Set what is to be called with `on`, then `start`; `close` it in the end. Lives on the event loop."""

    def __init__(self, database: Database, node_id: str, *, pause: float = PAUSE, heartbeat: float = HEARTBEAT) -> None:
        """Times are in seconds."""
        self.node_id = node_id
        self.reconnects = 0
        """How often the connection was replaced."""
        self._database = database
        self._pause = pause
        self._heartbeat = heartbeat
        self._callbacks: dict[str, list[Callable[[], None]]] = {}
        self._waiting: dict[tuple[str, str], None] = {}
        """Node and topic of each signal to be sent."""
        self._wake = asyncio.Event()
        self._connection: Any = None
        self._task: asyncio.Task[None] | None = None
        self.on_reconnected: Callable[[], None] = lambda: None
        """Called before the topics' callbacks: the store may have been another one, or have lost its newest commits."""
        self.on_sent: Callable[[int], None] = lambda _count: None
        """Called with the number of signals that one transaction sent."""

    @property
    def connected(self) -> bool:
        """Whether signals arrive, as far as is known."""
        return self._connection is not None and not self._connection.is_closed()

    def on(self, topic: str, callback: Callable[[], None]) -> None:
        """Have `callback` called on the event loop for each signal of a topic, and once after each reconnect."""
        self._callbacks.setdefault(topic, []).append(callback)

    def send(self, nodes: Iterable[str], topic: str) -> None:
        """Send a signal to each of these nodes, soon. One to this node itself is delivered without the store."""
        for node in nodes:
            if node == self.node_id:
                asyncio.get_running_loop().call_soon(self._deliver, topic)
            elif len(self._waiting) < MOST_WAITING:
                self._waiting[node, topic] = None
        if self._waiting:
            self._wake.set()

    async def start(self) -> None:
        """Listen and send from now on; returns once it listens. Raises one of `LOST` or an `asyncpg.PostgresError`."""
        await self._connect()
        self._task = asyncio.create_task(self._run(), name="signals")

    async def close(self) -> None:
        """Listen and send no more. A second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        self._drop()

    async def _run(self) -> None:
        """Send what waits; replace the connection when it is lost."""
        failures = 0
        while True:
            try:
                if not self.connected:
                    self._drop()
                    await self._connect()
                    self.reconnects += 1
                    log.info("signals_reconnected")
                    self.on_reconnected()
                    for topic in list(self._callbacks):
                        self._deliver(topic)
                    failures = 0
                await self._send_or_test()
            except (*LOST, asyncpg.PostgresError) as error:
                log.warning("signals_connection_lost", error=reason(error))
                self._drop()
                failures += 1
                await asyncio.sleep(RETRIES.full(failures))

    async def _send_or_test(self) -> None:
        """Wait for something to send and send it; test the connection if nothing comes. Raises when it is lost."""
        if not self._waiting:
            self._wake.clear()
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._wake.wait()
            except TimeoutError:
                await self._connection.execute("SELECT 1")
                return
        if not self.connected:
            return
        sending, self._waiting = self._waiting, {}
        if not sending:
            return  # the connection was lost, and is replaced before anything is sent
        try:
            await self._connection.execute(
                _NOTIFY, [channel_of(node) for node, _ in sending], [topic for _, topic in sending]
            )
        except BaseException:
            self._waiting = sending | self._waiting  # perhaps it was sent: once more does no harm
            raise
        self.on_sent(len(sending))
        await asyncio.sleep(self._pause)

    async def _connect(self) -> None:
        connection = await self._database.connect()
        try:
            connection.add_termination_listener(lambda _connection: self._wake.set())
            await connection.add_listener(channel_of(self.node_id), self._received)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    def _received(self, _connection: object, _pid: int, _channel: str, topic: str) -> None:
        self._deliver(topic)

    def _deliver(self, topic: str) -> None:
        for callback in self._callbacks.get(topic, ()):
            try:
                callback()
            except Exception as error:  # the others are to be called all the same
                log.error("signal_failed", topic=topic, error=type(error).__name__, exc_info=error)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
