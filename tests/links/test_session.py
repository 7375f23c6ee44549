"""One link's session: every worker that began is ended and counted once, whichever waiter is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from roundtrip.drivers.base import Report, SessionSpec
from roundtrip.links.session import SessionRunner, StartSlots
from roundtrip.telemetry.tracing import OFF, RequestTracer
from tests.support.links import FakeClock, FakeDriver, FakeSession

SPEC = SessionSpec("lnk_1", Path("keys"), None)


class SlowSession(FakeSession):
    """Its end waits for `gate`."""

    def __init__(self, driver: FakeDriver, spec: SessionSpec, report: Callable[[Report], None]) -> None:
        super().__init__(driver, spec, report)
        self.gate = asyncio.Event()
        self.stops = 0

    async def stop(self) -> None:
        self.stops += 1
        await self.gate.wait()
        await super().stop()


class SlowDriver(FakeDriver):
    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> SlowSession:
        await super().start(spec, report)
        session = SlowSession(self, spec, report)
        self.sessions[-1] = session
        return session


class Bench:
    def __init__(self) -> None:
        self.driver = SlowDriver()
        self.spans = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        tracer = RequestTracer(OFF._contexts, provider.get_tracer("test"))
        self.runner = SessionRunner(self.driver, StartSlots(1), "user-1", FakeClock(), lambda _: None, tracer)

    @property
    def session(self) -> SlowSession:
        session = self.driver.sessions[-1]
        assert isinstance(session, SlowSession)
        return session

    async def stop(self) -> asyncio.Task[None]:
        """A stop that has begun, and waits."""
        stop = asyncio.create_task(self.runner.stop("lnk_1"))
        await moments()
        return stop

    def ended_once(self) -> None:
        (span,) = self.spans.get_finished_spans()
        assert span.name == "worker"
        assert span.attributes is not None
        assert span.attributes["roundtrip.worker.exit"] == "stopped"


async def moments() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_stop_whose_waiter_gives_up_is_finished_and_counted_once() -> None:
    bench = Bench()
    bench.runner.start(SPEC)
    await moments()
    await cancelled(await bench.stop())
    assert not bench.session.stopped
    again = await bench.stop()
    assert not again.done(), "a stop waits for the one that is under way"
    bench.session.gate.set()
    await again
    assert bench.session.stopped
    assert bench.session.stops == 1
    bench.ended_once()


async def test_an_end_that_is_cut_off_itself_is_counted() -> None:
    """The loop ends all tasks."""
    bench = Bench()
    bench.runner.start(SPEC)
    await moments()
    stop = await bench.stop()
    (ending,) = (task for task in asyncio.all_tasks() if task.get_name() == "session-end")
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    bench.ended_once()
    await bench.runner.stop("lnk_1")
    bench.ended_once()


async def test_a_stop_that_is_given_up_while_the_driver_starts_leaves_nothing_behind() -> None:
    bench = Bench()
    bench.driver.gate = asyncio.Event()
    bench.runner.start(SPEC)
    await moments()
    await cancelled(await bench.stop())
    again = await bench.stop()
    bench.driver.gate.set()
    await moments()
    bench.session.gate.set()
    await again
    assert bench.session.stopped
    assert bench.runner.session is None
    bench.ended_once()
    bench.runner.start(SPEC)  # nothing stands in the way of the next


async def test_a_session_whose_handing_over_is_given_up_is_still_stopped() -> None:
    bench = Bench()
    bench.runner.start(SPEC)
    await moments()
    over = asyncio.create_task(bench.runner.detach())
    await asyncio.sleep(0)  # it waits for the start's task to end
    over.cancel()
    with pytest.raises(asyncio.CancelledError):
        await over
    bench.session.gate.set()
    await bench.runner.stop("lnk_1")
    assert bench.session.stopped
    bench.ended_once()
