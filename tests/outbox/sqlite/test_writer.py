"""The writer thread: batches, failures that it survives, and what comes before an expiry."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from roundtrip.events import EventType
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Ended, Outcome, Resolution, StoredEvent
from roundtrip.outbox.sqlite.inbox import BATCH_LIMIT
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.outbox.contract.base import until
from tests.outbox.sqlite.helpers import Open
from tests.support.drafts import CONNECTED, KEY, Clock, assert_balanced, draft, end, qr, store


async def test_a_queued_end_comes_before_the_expiry(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox(sweep_every=0.0)
    events = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock, ttl=1000)) for _ in range(3 * BATCH_LIMIT)))
    outbox.fault_delay = 0.01  # so that all that follows waits in the queue
    for event in events:
        outbox.resolve(end(event))
    clock.pass_ms(2000)
    await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 0)
    assert outbox.totals().resolved[EventType.CONNECTED, Outcome.ACKED] == len(events)


async def test_a_flood_delays_no_expiry(open_outbox: Open, clock: Clock) -> None:
    """The queue is never empty, and what is too old ends all the same."""
    outbox = await open_outbox(sweep_every=0.0)
    reported: list[Ended] = []
    outbox.on_ended = reported.extend
    old = await store(outbox, draft(CONNECTED, clock, ttl=1000))
    clock.pass_ms(2000)
    answered = 0

    def again(_: object) -> None:
        nonlocal answered
        answered += 1
        if not reported and answered < 40 * BATCH_LIMIT:
            outbox.append(draft(CONNECTED, clock, ttl=60_000), again)

    for _ in range(4 * BATCH_LIMIT):
        outbox.append(draft(CONNECTED, clock, ttl=60_000), again)
    await until(lambda: bool(reported), within=30)
    assert reported[0] == Ended(KEY, old.seq, Outcome.EXPIRED)
    assert answered < 20 * BATCH_LIMIT


async def test_a_malformed_write_is_refused_alone(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    outbox.fault_delay = 0.1  # so that the next ones share a commit
    held = asyncio.ensure_future(store(outbox, draft(CONNECTED, clock)))
    await asyncio.sleep(0)
    await until(lambda: not outbox._writer._inbox)
    malformed = msgspec.structs.replace(draft(CONNECTED, clock), expires_at="soon")
    results = await asyncio.gather(
        store(outbox, draft(CONNECTED, clock)),
        store(outbox, malformed),
        store(outbox, draft(CONNECTED, clock)),
        return_exceptions=True,
    )
    assert (await held).seq == 1
    assert [getattr(result, "seq", None) for result in results] == [2, None, 3]
    assert isinstance(results[1], OutboxError)
    outbox.resolve(Resolution(KEY, 1, 99 << 70, clock.ms, []))  # type: ignore[arg-type]  # no number for SQLite
    outbox.resolve(Resolution(KEY, 2, Outcome.ACKED, clock.ms, []))
    assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [1, 3]
    assert_balanced(outbox.totals())


async def test_a_slow_store_commits_larger_batches(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    seconds: list[float] = []
    outbox.on_write = seconds.append
    outbox.fault_delay = 0.02
    await store(outbox, draft(CONNECTED, clock))
    await asyncio.gather(*(store(outbox, draft(CONNECTED, clock)) for _ in range(500)))
    assert 2 <= len(seconds) <= 4
    assert min(seconds) >= 0.02


async def test_failed_commits_are_counted_and_the_fault_can_be_read(tmp_path: Path) -> None:
    outbox = SqliteOutbox(tmp_path)
    failures: list[str] = []
    outbox.count_failures(lambda: failures.append("failed"))
    await outbox.start()
    try:
        assert not outbox.fault_down
        outbox.fault_down = True
        assert outbox.fault_down
        for count in (1, 2):
            with pytest.raises(OutboxError):
                await outbox.check()
            assert len(failures) == count  # before the callers are notified
        outbox.fault_down = False
        await outbox.check()
        assert len(failures) == 2
        with pytest.raises(ValueError, match="pending"):
            outbox.resolve(Resolution(KEY, 1, Outcome.PENDING, 1, []))
    finally:
        outbox.fault_down = False
        await outbox.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB with a file `ballast` on it, which leaves room when it is deleted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mount.stderr.strip()}")
    (disk / "ballast").write_bytes(bytes(3 << 20))
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_full_disk_refuses_and_recovers(open_outbox: Open, clock: Clock, small_disk: Path) -> None:
    outbox = await open_outbox(small_disk / "data")
    stored: list[StoredEvent] = []

    async def fill() -> None:
        while True:
            stored.append(await store(outbox, draft(qr("x" * 20_000), clock, supersede=False)))

    with pytest.raises(OutboxError) as refusal:
        await fill()
    assert refusal.value.code == "outbox_unavailable"
    assert "full" in refusal.value.message
    with pytest.raises(OutboxError):
        await store(outbox, draft(qr("x" * 20_000), clock, supersede=False))
    assert await outbox.last_seq(KEY) == len(stored)
    assert await outbox.pending(KEY, 0, 100_000) == stored
    assert_balanced(outbox.totals())
    for event in stored[:5]:
        outbox.resolve(end(event))
    (small_disk / "ballast").unlink()
    await outbox.check()
    assert (await store(outbox, draft(CONNECTED, clock))).seq == len(stored) + 1
    assert len(await outbox.ledger(KEY, 0, 100_000)) == len(stored) + 1
    totals = outbox.totals()
    assert totals.resolved[EventType.QR, Outcome.ACKED] == 5
    assert_balanced(totals)


async def test_a_thread_that_fails_leaves_no_caller_waiting(
    open_outbox: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = await open_outbox()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(OutboxError):
        await outbox._read(broken)
    await outbox.check()
    monkeypatch.setattr(outbox._writer, "_run_once", broken)
    await until(lambda: not outbox._writer.alive)
    for call in (outbox.check(), outbox.find("id"), outbox.last_seq(KEY), store(outbox, draft(CONNECTED, clock))):
        with pytest.raises(OutboxError):
            await call
    await outbox.close()
