"""The SQLite outbox: the contract, and what only it promises."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import msgspec
import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Ended, Outcome, Resolution, StoredEvent
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.outbox.sqlite.writer import BATCH_LIMIT
from tests.delivery.outbox_contract import OutboxContract, Reopen, until
from tests.support.drafts import CONNECTED, CONNECTING, KEY, Clock, assert_balanced, draft, end, qr, store

Open: TypeAlias = Callable[..., Awaitable[SqliteOutbox]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_outbox(tmp_path: Path, clock: Clock) -> AsyncIterator[Open]:
    """Opens outboxes with fast sweeps, and closes them in the end."""
    opened: list[SqliteOutbox] = []

    async def open_(folder: Path = tmp_path / "data", **options: Any) -> SqliteOutbox:
        outbox = SqliteOutbox(folder, **{"sweep_every": 0.02, "clock": clock, **options})
        await outbox.start()
        opened.append(outbox)
        return outbox

    yield open_
    for outbox in opened:
        outbox.fault_down, outbox.fault_delay = False, 0.0
        await outbox.close()


class TestContract(OutboxContract):
    @pytest.fixture
    def reopen(self, open_outbox: Open) -> Reopen:
        current: Outbox | None = None

        async def reopen() -> Outbox:
            nonlocal current
            if current is not None:
                await current.close()
            current = await open_outbox()
            return current

        return reopen


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


# the folder and the file


async def test_everything_is_private(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    await open_outbox()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "data").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name


async def test_it_is_durable_by_its_settings(open_outbox: Open) -> None:
    outbox = await open_outbox()

    async def pragma(name: str) -> object:
        return await outbox._read(lambda reader: reader._db.execute(f"PRAGMA {name}").fetchone()[0])

    assert [await pragma(name) for name in ("journal_mode", "synchronous", "secure_delete")] == ["wal", 2, 1]


async def test_a_second_backend_on_the_folder_is_refused(open_outbox: Open, tmp_path: Path, clock: Clock) -> None:
    outbox = await open_outbox()
    with pytest.raises(OutboxError) as refusal:
        await open_outbox()
    assert refusal.value.code == "outbox_unavailable"
    assert str(tmp_path / "data") in refusal.value.message
    assert str(os.getpid()) in refusal.value.message
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 1
    await outbox.close()
    again = await open_outbox()
    assert await again.last_seq(KEY) == 1


async def test_a_newer_schema_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    await (await open_outbox()).close()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(OutboxError, match=r"newer version of this program \(schema 99"):
        await open_outbox()


async def test_a_strangers_database_is_refused_and_left_alone(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db")
    db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with pytest.raises(OutboxError, match="not an outbox of this program"):
        await open_outbox()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db")
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("recipes",)]
    db.close()


async def test_a_corrupt_file_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "outbox.db").write_bytes(b"this was an outbox once" * 500)
    with pytest.raises(OutboxError, match=r"cannot be used: file is not a database"):
        await open_outbox()


async def test_a_torn_file_is_refused(open_outbox: Open, tmp_path: Path, clock: Clock) -> None:
    outbox = await open_outbox()
    for _ in range(200):
        outbox.append(draft(CONNECTED, clock), lambda _: None)
    await outbox.close()
    path = tmp_path / "data" / "outbox.db"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(OutboxError, match="malformed"):
        await open_outbox()


async def test_a_folder_that_cannot_be_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="Cannot write in the data folder"):
        await open_outbox(tmp_path / "file" / "data")
    (tmp_path / "data" / "outbox.db").mkdir(parents=True)
    with pytest.raises(OutboxError, match="Cannot write the outbox"):
        await open_outbox()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_a_folder_without_permission_is_refused(open_outbox: Open, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    with pytest.raises(OutboxError, match="Permission denied"):
        await open_outbox(tmp_path / "data" / "deeper")


# secrets


async def test_no_secret_outlives_its_event(open_outbox: Open, tmp_path: Path, clock: Clock) -> None:
    outbox = await open_outbox()
    secret = "2@" + "SeCrEt" * 40
    folder = tmp_path / "data"
    for index in range(60):
        await store(outbox, draft(qr(f"{secret}{index}" * (1 + index % 12 * 2)), clock))  # some need overflow pages
        await store(outbox, draft(CONNECTED, clock, BotKey("u", str(index))))
    assert secret.encode() in files(folder)
    await store(outbox, draft(CONNECTED, clock))
    await until(lambda: secret.encode() not in files(folder))
    event = await store(outbox, draft(qr(secret), clock, ttl=1000))
    assert secret.encode() in files(folder)
    clock.pass_ms(1000)
    await until(lambda: secret.encode() not in files(folder))
    assert (await outbox.find(event.id)) is not None
    event = await store(outbox, draft(qr(secret), clock))
    outbox.resolve(end(event))
    await until(lambda: secret.encode() not in files(folder))


# failures


async def test_a_failed_commit_uses_up_no_seq(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    await store(outbox, draft(CONNECTED, clock))
    outbox.fault_down = True
    told: list[object] = []
    outbox.on_ended = lambda _: told.append("ended")
    results = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock)) for _ in range(9)), return_exceptions=True)
    assert {result.code for result in results if isinstance(result, OutboxError)} == {"outbox_unavailable"}
    assert len(results) == 9
    with pytest.raises(OutboxError):
        await store(outbox, draft(CONNECTED, clock, BotKey("new", "key")))
    with pytest.raises(OutboxError):
        await outbox.check()
    with pytest.raises(OutboxError):
        await outbox.discard(KEY)
    assert await outbox.last_seq(KEY) == 1
    outbox.fault_down = False
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 2
    assert (await store(outbox, draft(CONNECTED, clock, BotKey("new", "key")))).seq == 1
    await outbox.check()
    assert told == []
    assert_balanced(outbox.totals())


async def test_ends_are_kept_while_the_store_is_down_and_written_by_themselves(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    events = [await store(outbox, draft(CONNECTED, clock)) for _ in range(4)]
    outbox.resolve(end(events[3], Outcome.RECEIVED))
    await outbox.last_seq(KEY)
    outbox.fault_down = True
    outbox.resolve(end(events[0]))
    outbox.record(KEY, 2, [])
    outbox.upgrade(KEY, 4, 9)
    assert [event.seq for event in await outbox.pending(KEY, 0, 9)] == [2, 3]  # not replayed, though not yet written
    with pytest.raises(OutboxError):
        await outbox.check()
    assert outbox.totals().pending[EventType.CONNECTED] == 3
    assert_balanced(outbox.totals())
    outbox.fault_down = False
    await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 2)
    assert [entry.outcome.name for entry in await outbox.ledger(KEY, 0, 9)] == ["ACKED", "PENDING", "PENDING", "ACKED"]


async def test_an_end_kept_through_an_outage_comes_before_the_expiry(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    told: list[Ended] = []
    outbox.on_ended = told.extend
    acked, late = [await store(outbox, draft(CONNECTED, clock, ttl=1000)) for _ in range(2)]
    outbox.fault_down = True
    outbox.resolve(end(acked))
    with pytest.raises(OutboxError):
        await outbox.check()
    clock.pass_ms(2000)
    await asyncio.sleep(0.1)  # several sweeps find both too old, and the store down
    outbox.fault_down = False
    await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 0)
    assert [entry.outcome for entry in await outbox.ledger(KEY, 0, 9)] == [Outcome.ACKED, Outcome.EXPIRED]
    assert told == [Ended(KEY, late.seq, Outcome.EXPIRED)]
    assert_balanced(outbox.totals())


async def test_an_end_that_waits_in_the_queue_comes_before_the_expiry(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox(sweep_every=0.0)
    events = await asyncio.gather(*(store(outbox, draft(CONNECTED, clock, ttl=1000)) for _ in range(3 * BATCH_LIMIT)))
    outbox.fault_delay = 0.01  # so that all that follows waits in the queue
    for event in events:
        outbox.resolve(end(event))
    clock.pass_ms(2000)
    await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 0)
    assert outbox.totals().resolved[EventType.CONNECTED, Outcome.ACKED] == len(events)


async def test_a_flood_puts_no_expiry_off(open_outbox: Open, clock: Clock) -> None:
    """The queue is never empty, and what is too old ends all the same."""
    outbox = await open_outbox(sweep_every=0.0)
    told: list[Ended] = []
    outbox.on_ended = told.extend
    old = await store(outbox, draft(CONNECTED, clock, ttl=1000))
    clock.pass_ms(2000)
    answered = 0

    def again(_: object) -> None:
        nonlocal answered
        answered += 1
        if not told and answered < 40 * BATCH_LIMIT:
            outbox.append(draft(CONNECTED, clock, ttl=60_000), again)

    for _ in range(4 * BATCH_LIMIT):
        outbox.append(draft(CONNECTED, clock, ttl=60_000), again)
    await until(lambda: bool(told), within=30)
    assert told[0] == Ended(KEY, old.seq, Outcome.EXPIRED)
    assert answered < 20 * BATCH_LIMIT


async def test_a_long_outage_with_many_ends_is_survived(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    for _ in range(5000):
        outbox.append(draft(CONNECTED, clock), lambda _: None)
    await outbox.last_seq(KEY)
    outbox.fault_down = True
    for seq in range(1, 5001):
        outbox.resolve(Resolution(KEY, seq, Outcome.ACKED, clock.ms, []))
        if seq % 500 == 0:
            with pytest.raises(OutboxError):
                await outbox.check()
    assert await outbox.pending(KEY, 0, 9) == []
    outbox.fault_down = False
    await until(lambda: outbox.totals().pending[EventType.CONNECTED] == 0)
    assert_balanced(outbox.totals())


async def test_an_outage_at_the_close_leaves_the_event_pending(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    event = await store(outbox, draft(CONNECTED, clock))
    outbox.fault_down = True
    outbox.resolve(end(event))
    await outbox.close()
    assert await (await open_outbox()).pending(KEY, 0, 9) == [event]


async def test_one_malformed_write_takes_no_other_with_it(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    outbox.fault_delay = 0.1  # so that the next ones share a commit
    held = asyncio.ensure_future(store(outbox, draft(CONNECTED, clock)))
    await asyncio.sleep(0)
    await until(lambda: not outbox._writer._queue)
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


async def test_a_slow_store_makes_bigger_batches(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox()
    seconds: list[float] = []
    outbox.on_write = seconds.append
    outbox.fault_delay = 0.02
    await store(outbox, draft(CONNECTED, clock))
    await asyncio.gather(*(store(outbox, draft(CONNECTED, clock)) for _ in range(500)))
    assert 2 <= len(seconds) <= 4
    assert min(seconds) >= 0.02


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


async def test_a_thread_that_dies_leaves_nobody_waiting(
    open_outbox: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = await open_outbox()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(OutboxError):
        await outbox._read(broken)
    await outbox.check()
    monkeypatch.setattr(outbox._writer, "_turn", broken)
    await until(lambda: not outbox._writer.alive)
    for call in (outbox.check(), outbox.discard(KEY), outbox.last_seq(KEY), store(outbox, draft(CONNECTED, clock))):
        with pytest.raises(OutboxError):
            await call
    await outbox.close()


# size


async def seqs_are(outbox: Outbox, seqs: list[int]) -> bool:
    return [entry.seq for entry in await outbox.ledger(KEY, 0, 9)] == seqs


async def test_resolved_events_go_after_the_retention_and_the_sums_stay(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox(retention=10.0)
    events = [await store(outbox, draft(CONNECTED, clock, ttl=10**9)) for _ in range(3)]
    outbox.resolve(end(events[0], at=clock.ms))
    outbox.resolve(end(events[1], at=clock.ms + 5000))
    await outbox.last_seq(KEY)
    clock.pass_ms(10_000)
    await until(lambda: seqs_are(outbox, [2, 3]))
    assert outbox.totals().created[EventType.CONNECTED] == 3
    clock.pass_ms(10**6)
    await until(lambda: seqs_are(outbox, [3]))
    assert await outbox.pending(KEY, 0, 9) == [events[2]]
    await outbox.close()
    outbox = await open_outbox()
    assert_balanced(outbox.totals())
    assert outbox.totals().created[EventType.CONNECTED] == 3
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 4


async def test_a_key_keeps_its_seq_though_all_its_events_are_gone(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox(retention=0.0)
    outbox.resolve(end(await store(outbox, draft(CONNECTED, clock))))
    clock.pass_ms(10)
    await until(lambda: seqs_are(outbox, []))
    await outbox.close()
    outbox = await open_outbox()
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 2


async def test_past_its_bound_resolved_events_go_first_then_it_is_full(
    open_outbox: Open, clock: Clock, tmp_path: Path
) -> None:
    bound = 1 << 20
    outbox = await open_outbox(max_bytes=bound)
    for _ in range(8):
        events = await asyncio.gather(
            *(store(outbox, draft(qr("x" * 1000), clock, supersede=False)) for _ in range(300))
        )
        for event in events:
            outbox.resolve(end(event))
    await outbox.last_seq(KEY)
    assert not outbox.full
    for _ in range(1500):
        outbox.append(draft(qr("x" * 1000), clock, supersede=False), lambda _: None)
    await until(lambda: outbox.full)
    assert [entry.outcome for entry in await outbox.ledger(KEY, 0, 9999)] == [Outcome.PENDING] * 1500
    event = await store(outbox, draft(CONNECTING, clock, supersede=False))  # accepted all the same
    assert event.seq == 8 * 300 + 1501
    assert await outbox.discard(KEY) == 1501
    await until(lambda: not outbox.full)
    await until(lambda: outbox.totals().size_bytes < bound)
    assert_balanced(outbox.totals())


async def test_the_write_ahead_log_stays_small(open_outbox: Open, clock: Clock, tmp_path: Path) -> None:
    outbox = await open_outbox()
    for _ in range(40):
        for _ in range(500):
            outbox.append(draft(qr("x" * 1000), clock, supersede=False), lambda _: None)
        await outbox.last_seq(KEY)
    await until(lambda: (tmp_path / "data" / "outbox.db-wal").stat().st_size <= 16 << 20)


@pytest.mark.parametrize("made", ["by this program", "without auto_vacuum"])
async def test_the_disk_is_given_back_after_a_large_sweep(
    open_outbox: Open, clock: Clock, tmp_path: Path, made: str
) -> None:
    path = tmp_path / "data" / "outbox.db"
    outbox = await open_outbox(retention=10.0)
    first = await store(outbox, draft(CONNECTED, clock, ttl=10**9))
    if made == "without auto_vacuum":
        await outbox.close()
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA auto_vacuum=NONE")
        db.execute("VACUUM")
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
        db.close()
        outbox = await open_outbox(retention=10.0)
    for _ in range(4):
        made_ = [store(outbox, draft(qr("x" * 2000), clock, supersede=False)) for _ in range(1000)]
        for event in await asyncio.gather(*made_):
            outbox.resolve(end(event, at=clock.ms))
    await outbox.last_seq(KEY)
    clock.pass_ms(11_000)
    # a second sweep deletes, others give back; the slices let events in between
    await until(lambda: outbox.totals().size_bytes < 1 << 20, within=20)
    assert path.stat().st_size < 1 << 20
    assert await outbox.pending(KEY, 0, 9) == [first]
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 4002


async def test_a_file_that_cannot_be_rewritten_is_used_as_it_is(
    open_outbox: Open, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = await open_outbox()
    event = await store(outbox, draft(CONNECTED, clock, ttl=10**9))
    await outbox.close()
    db = sqlite3.connect(tmp_path / "data" / "outbox.db", isolation_level=None)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA auto_vacuum=NONE")
    db.execute("VACUUM")
    db.close()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
    outbox = await open_outbox(retention=0.0)
    assert await outbox.pending(KEY, 0, 9) == [event]
    made = [store(outbox, draft(qr("x" * 2000), clock, supersede=False)) for _ in range(500)]
    for one in await asyncio.gather(*made):
        outbox.resolve(end(one, at=clock.ms))
    clock.pass_ms(100)
    await until(lambda: seqs_are(outbox, [1]))
    before = outbox._writer._next_sweep
    await until(lambda: outbox._writer._next_sweep > before)
    assert outbox._writer._next_sweep > time.monotonic()  # it does not sweep without end


# crashes

_CHILD = """
import asyncio, sys
from pathlib import Path
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.identity import BotKey
from tests.support.drafts import CONNECTED, Clock, draft, end

async def main():
    outbox, clock = SqliteOutbox(Path(sys.argv[1])), Clock()
    await outbox.start()
    def done(event):
        sys.stdout.write(f"{event.key.bot_id} {event.seq} {event.id}\\n")
        sys.stdout.flush()
        if event.seq % 2:
            outbox.resolve(end(event))
    while True:
        for bot in range(20):
            outbox.append(draft(CONNECTED, clock, BotKey("user", str(bot))), done)
        await asyncio.sleep(0.002)

asyncio.run(main())
"""


async def test_what_was_told_survives_kill_9(open_outbox: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    told: dict[str, dict[int, str]] = {str(bot): {} for bot in range(20)}
    for life in range(3):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, str(folder), stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
        assert child.stdout is not None
        for _ in range(500 + 777 * life):
            bot, seq, event_id = (await child.stdout.readline()).decode().split()
            told[bot][int(seq)] = event_id
        child.kill()
        for line in (await child.stdout.read()).decode().splitlines():
            if len(line.split()) == 3 and len(line.split()[2]) == 36:
                bot, seq, event_id = line.split()
                told[bot][int(seq)] = event_id
        await child.wait()
        outbox = await open_outbox()
        for bot, events in told.items():
            entries = await outbox.ledger(BotKey("user", bot), 0, 10**6)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            stored = {entry.seq: entry.id for entry in entries}
            assert events.items() <= stored.items()
        assert_balanced(outbox.totals())
        await outbox.close()
