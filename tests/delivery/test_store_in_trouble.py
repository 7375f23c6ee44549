"""What the writer thread keeps while the store fails, when it tries again, and what it remembers of keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.delivery import sqlite_keys
from backend.delivery.outcome import Outcome
from backend.delivery.sqlite_kept import KeptWrites
from backend.delivery.sqlite_keys import Keys
from backend.delivery.sqlite_ops import Record, Resolve
from backend.delivery.sqlite_schema import SEQ_BITS, open_database
from backend.identity import BotKey
from tests.support.stepped_clock import SteppedClock

KEY = BotKey("user", "bot")


def resolve(seq: int) -> Resolve:
    return Resolve(KEY, seq, Outcome.ACKED, 1, "[]")


def test_it_tries_again_after_longer_and_longer_up_to_a_second() -> None:
    clock = SteppedClock()
    kept = KeptWrites(clock.monotonic)
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
    kept = KeptWrites(clock.monotonic)
    kept.keep([resolve(seq) for seq in range(1000)])
    kept.failed("down")
    assert not kept.must_wait()
    kept.keep([resolve(1000)])
    assert kept.must_wait()
    clock.advance(0.06)
    assert not kept.must_wait()


def test_what_has_ended_is_known_for_as_long_as_it_is_kept() -> None:
    kept = KeptWrites()
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
