"""What is deleted, when the file shrinks, and that ended secrets are wiped from it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from tests.outbox.contract.base import until
from tests.outbox.sqlite.helpers import Open, files, seqs_are
from tests.support.drafts import CONNECTED, CONNECTING, KEY, Clock, assert_balanced, draft, end, qr, store


async def test_resolved_events_are_deleted_after_the_retention_and_the_sums_stay(
    open_outbox: Open, clock: Clock
) -> None:
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


async def test_a_key_continues_its_seq_after_all_its_events_are_deleted(open_outbox: Open, clock: Clock) -> None:
    outbox = await open_outbox(retention=0.0)
    outbox.resolve(end(await store(outbox, draft(CONNECTED, clock))))
    clock.pass_ms(10)
    await until(lambda: seqs_are(outbox, []))
    await outbox.close()
    outbox = await open_outbox()
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 2


async def test_past_its_bound_resolved_events_are_deleted_then_it_is_full(
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
    for pending in await outbox.pending(KEY, 0, 9999):
        outbox.resolve(end(pending, Outcome.DISCARDED))
    await outbox.last_seq(KEY)
    discarded = [n for (_, outcome), n in outbox.totals().resolved.items() if outcome is Outcome.DISCARDED]
    assert sum(discarded) == 1501
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
async def test_the_file_shrinks_after_a_large_deletion(
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
    # one step deletes, others release pages; writes are committed between them
    await until(lambda: outbox.totals().size_bytes < 1 << 20, within=20)
    assert path.stat().st_size < 1 << 20
    assert await outbox.pending(KEY, 0, 9) == [first]
    assert (await store(outbox, draft(CONNECTED, clock))).seq == 4002


async def test_a_file_that_is_rewritten_at_the_start_leaves_no_log_of_its_size(
    open_outbox: Open, clock: Clock, tmp_path: Path
) -> None:
    """The copy goes through the log: without a checkpoint it would take its place on the disk twice, for good."""
    path = tmp_path / "data" / "outbox.db"
    outbox = await open_outbox()
    await asyncio.gather(*(store(outbox, draft(qr("x" * 2000), clock, supersede=False)) for _ in range(300)))
    await outbox.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA auto_vacuum=NONE")
        db.execute("VACUUM")
    assert path.stat().st_size > 500_000
    await open_outbox()
    assert path.with_name(f"{path.name}-wal").stat().st_size < path.stat().st_size / 4


async def test_an_ended_secret_is_wiped_from_the_files(open_outbox: Open, tmp_path: Path, clock: Clock) -> None:
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
