"""What the writer thread keeps while the store fails, when it tries again, and what it remembers of keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.base import OutboxError
from roundtrip.outbox.records import Outcome, Resolution
from roundtrip.outbox.sqlite import maintenance as sqlite_kept
from roundtrip.outbox.sqlite import reads as sqlite_keys
from roundtrip.outbox.sqlite.maintenance import RetriedWrites
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.outbox.sqlite.reads import Keys, LedgerSums
from roundtrip.outbox.sqlite.schema import FILE_NAME, SEQ_BITS, Move, Record, Resolve, open_database
from tests.support.drafts import CONNECTED, Clock, draft, store
from tests.support.stepped_clock import SteppedClock

KEY = BotKey("user", "bot")


def resolve(seq: int) -> Resolve:
    return Resolve(KEY, seq, Outcome.ACKED, 1, "[]")


def test_it_tries_again_after_longer_and_longer_up_to_a_second() -> None:
    clock = SteppedClock()
    kept = RetriedWrites(clock.monotonic)
    assert kept.retry_in() == float("inf")
    delays = []
    for _ in range(8):
        kept.keep([resolve(1)])
        kept.failed("down")
        assert not kept.due()
        delays.append(round(kept.retry_in(), 3))
        clock.advance(delays[-1] - 0.001)
        assert not kept.due()
        clock.advance(0.002)
        assert kept.due()
        kept.take()
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    kept.succeeded()
    kept.keep([resolve(1)])
    assert kept.due()
    kept.failed("down again")
    assert kept.retry_in() == pytest.approx(0.05)


def test_only_much_that_is_kept_makes_new_writes_wait() -> None:
    clock = SteppedClock()
    kept = RetriedWrites(clock.monotonic)
    kept.keep([resolve(seq) for seq in range(1000)])
    kept.failed("down")
    assert not kept.must_wait()
    kept.keep([resolve(1000)])
    assert kept.must_wait()
    clock.advance(0.06)
    assert not kept.must_wait()


def test_what_has_ended_is_known_for_as_long_as_it_is_kept() -> None:
    kept = RetriedWrites()
    assert kept.ended() == frozenset()
    kept.keep([resolve(1), Record(KEY, 2, "[]"), resolve(3)])
    assert kept.ended() == {(KEY, 1), (KEY, 3)}
    assert kept.take(1) == [resolve(1)]
    assert kept.ended() == {(KEY, 3)}
    kept.keep([resolve(1)])
    assert kept.ended() == {(KEY, 1), (KEY, 3)}
    kept.take()
    assert kept.ended() == frozenset()


def test_keys_are_remembered_up_to_a_bound_also_by_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_keys, "_LIMIT", 10)
    db = open_database(tmp_path)
    keys = Keys(db)
    names = [BotKey("user", f"{number}") for number in range(40)]
    for name in names:
        keys.advance(name)
    keys.store()
    assert len(keys._by_key) == 40  # not forgotten before they are stored
    keys.committed()
    assert len(keys._by_key) == 0
    for name in names:
        known = keys.find(name)
        assert known is not None
        assert (known.last_seq, keys.key_of(known.ref(1))) == (1, name)
        assert len(keys._by_key) <= 11
    keys._by_key.clear()
    keys._by_id.clear()
    for number in range(40):
        assert keys.key_of(number + 1 << SEQ_BITS) in names
        assert len(keys._by_id) <= 11
    db.close()


def test_a_key_whose_first_event_was_not_written_is_a_new_key_again(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    keys = Keys(db)
    keys.advance(KEY)
    keys.rolled_back()
    assert keys.find(KEY) is None
    assert len(keys._by_id) == 0  # failed commits of ever new keys fill no memory
    assert keys.advance(KEY).last_seq == 1
    keys.store()
    keys.committed()
    assert keys.advance(KEY).last_seq == 2
    db.close()


def test_past_the_bound_notes_go_first_then_the_newest_ends_but_never_a_move_of_the_clock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sqlite_kept, "_LIMIT", 3)
    kept = RetriedWrites()
    note, move = Record(KEY, 9, "[]"), Move(5, 5)
    kept.keep([resolve(1), note, resolve(2)])
    assert "outbox_writes_dropped" not in capsys.readouterr().out
    kept.keep([resolve(0)])
    assert "outbox_writes_dropped" in capsys.readouterr().out
    assert kept.take() == [resolve(0), resolve(1), resolve(2)]
    kept.keep([resolve(0), resolve(1), resolve(2), resolve(3), move])
    assert kept.take() == [resolve(0), resolve(1), resolve(2), move]


def test_an_outage_is_said_at_once_then_now_and_then_and_its_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SteppedClock()
    kept = RetriedWrites(clock.monotonic)

    def said() -> list[str]:
        text = capsys.readouterr().out
        return [name for name in ("outbox_write_failed", "outbox_recovered") if name in text]

    kept.succeeded()
    assert said() == []
    for _ in range(2):  # a second outage is told as the first was
        kept.failed("down")
        assert said() == ["outbox_write_failed"]
        for _ in range(9):
            clock.advance(1)
            kept.failed("down")
            assert said() == []
        clock.advance(1)
        kept.failed("down")
        assert said() == ["outbox_write_failed"]
        kept.succeeded()
        assert said() == ["outbox_recovered"]
        kept.succeeded()
        assert said() == []


def test_sums_that_do_not_agree_with_the_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = open_database(tmp_path)
    add = "INSERT INTO totals (type, outcome, n) VALUES (?, ?, ?)"
    db.execute(add, (EventType.CONNECTED, Outcome.PENDING, 2))
    db.execute(add, (EventType.CONNECTED, Outcome.ACKED, 2))
    LedgerSums(db)
    assert "ledger_unbalanced" not in capsys.readouterr().out
    db.execute(add, (EventType.CONNECTED, Outcome.EXPIRED, 1))
    LedgerSums(db)
    assert "ledger_unbalanced" in capsys.readouterr().out
    db.close()


@pytest.mark.parametrize("before", [None, 0o666])
def test_the_file_is_its_owners_alone_to_read_and_write(tmp_path: Path, before: int | None) -> None:
    path = tmp_path / FILE_NAME
    if before is not None:
        path.touch()
        path.chmod(before)
    open_database(tmp_path).close()
    assert path.stat().st_mode & 0o7777 == 0o600


async def test_an_outbox_that_never_opened_refuses_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this was an outbox once" * 500)
    outbox = SqliteOutbox(tmp_path)
    for _ in range(2):  # before the start, and after one that failed
        with pytest.raises(OutboxError) as refusal:
            await store(outbox, draft(CONNECTED, Clock()))
        assert refusal.value.code == "outbox_unavailable"
        with pytest.raises(OutboxError) as refusal:
            await outbox.start()
        assert refusal.value.code == "outbox_unavailable"
        assert not outbox.full
    await outbox.close()


async def test_failed_commits_are_counted_and_the_fault_can_be_seen(tmp_path: Path) -> None:
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
            assert len(failures) == count  # by the time that anybody is told
        outbox.fault_down = False
        await outbox.check()
        assert len(failures) == 2
        with pytest.raises(ValueError, match="pending"):
            outbox.resolve(Resolution(KEY, 1, Outcome.PENDING, 1, []))
    finally:
        outbox.fault_down = False
        await outbox.close()
