"""The canary's rounds: every interval, one event to itself, from the publishing to the acknowledgement.

A round opens a page at the public address, publishes an event, receives and acknowledges it there, and is over when the
courier has the acknowledgement. What it fails in is its `Stage`. It runs on the program's own loop: it sees what stands
between the loop and its clients, not a loop that stands still (`event_loop_lag_seconds`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from yarl import URL

from roundtrip.canary.lane import CanaryGate, CanaryLane
from roundtrip.canary.page import ElsewhereError, Stage, opened
from roundtrip.faults import Faults
from roundtrip.identity import BotKey, Principal
from roundtrip.outbox.base import Outbox
from roundtrip.settings import Settings
from roundtrip.sockets.access import Handshake
from roundtrip.telemetry.metrics import Metrics
from roundtrip.telemetry.redaction import message_of
from roundtrip.watched_clock import WatchedClock

log = structlog.get_logger(__name__)

LONGEST_ROUND: Final = 10.0
"""Seconds that a round may take, or one interval if that is less."""

ELSEWHERE_DELAY: Final = 0.05
"""Seconds until the next connection after one that led to another node."""


class CanaryProbe:
    """Runs the rounds of one node. `CANARY_INTERVAL` 0 makes none."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        faults: Faults,
        snapshot: Callable[[BotKey, int], Awaitable[msgspec.Struct]],
        admit: Callable[[Handshake], Awaitable[Principal]],
        metrics: Metrics,
        clock: WatchedClock,
        *,
        node: str = "node",
    ) -> None:
        """`admit` authenticates users; `admission` does so after the canary. `node` is unique in a shared store."""
        self._interval = settings.canary_interval
        self._deadline = min(LONGEST_ROUND, self._interval) or LONGEST_ROUND
        self._url = settings.canary_url
        self._metrics = metrics
        key = BotKey.canary(node)
        failed = metrics.task_failures.inc
        self.lane = CanaryLane(key, outbox, faults, snapshot, failed, timeout=self._deadline, clock=clock)
        clock.on_step.append(self.lane.courier.moved)
        self.admission = CanaryGate(key, admit)
        self._stage = Stage.CONNECT
        self._failures = 0
        self._rounds: asyncio.Task[None] | None = None

    def start(self, own_url: str, on_done: Callable[[asyncio.Task[None]], None]) -> None:
        """Begin; the first round is after one interval. `own_url` is the listener's, for want of a `CANARY_URL`;
        `on_done` is called when the rounds end, which they do by a mistake or by `stop`."""
        if self._interval > 0:
            self._rounds = asyncio.create_task(self._run(URL(self._url or own_url)), name="canary")
            self._rounds.add_done_callback(on_done)

    async def stop(self) -> None:
        """Cancel the round that runs; its connection is closed without waiting for the other side."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)
        self.lane.courier.close()

    async def _run(self, address: URL) -> None:
        while True:
            await asyncio.sleep(self._interval)
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._deadline) as limit:
                    seconds = await self._round_here(address, limit)
            except Exception as error:  # noqa: BLE001  # whatever it was, the next round comes
                self._failed(error, time.monotonic() - started)
            else:
                self._succeeded(seconds)
            finally:
                self.admission.withdraw()

    async def _round_here(self, address: URL, limit: asyncio.Timeout) -> float:
        """A round on this node; connections that a proxy leads to another one are tried again."""
        while True:
            try:
                return await self._round(address, limit)
            except ElsewhereError:
                await asyncio.sleep(ELSEWHERE_DELAY)

    async def _round(self, address: URL, limit: asyncio.Timeout) -> float:
        """One round; the seconds from the publishing to the acknowledgement."""
        auth: dict[str, str | bool] = {"token": self.admission.issue(), "acks": True}
        async with opened(address, auth, self._enter) as page:
            self._enter(Stage.STORE)
            published = time.monotonic()
            event = await self.lane.publish()
            self._enter(Stage.DELIVERY)
            await page.acknowledge(event.id)
            self._enter(Stage.ACK)
            await self.lane.acknowledged(event)
            seconds = time.monotonic() - published
            limit.reschedule(None)  # the closing has its own
        return seconds

    def _enter(self, stage: Stage) -> None:
        self._stage = stage

    def _succeeded(self, seconds: float) -> None:
        self._metrics.canary_delivery.observe(seconds)
        if self._failures:
            log.info("canary_recovered", failures=self._failures, seconds=round(seconds, 4))
        self._failures = 0
        self._metrics.canary_failing.set(0)

    def _failed(self, error: Exception, seconds: float) -> None:
        self._failures += 1
        self._metrics.canary_failures[self._stage].inc()
        self._metrics.canary_failing.set(self._failures)
        log.warning(
            "canary_failed",
            stage=self._stage,
            failures=self._failures,
            seconds=round(seconds, 3),
            error="no answer in time" if isinstance(error, TimeoutError) else message_of(error),
        )
