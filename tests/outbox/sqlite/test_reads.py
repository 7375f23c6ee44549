"""The caches in memory: keys, and the sums of the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from roundtrip.outbox.sqlite import reads
from roundtrip.outbox.sqlite.reads import KeyCache, LedgerSums
from roundtrip.outbox.sqlite.schema import SEQ_BITS, open_database
from tests.support.drafts import KEY


def test_the_key_cache_is_bounded_also_for_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_KEY_LIMIT", 10)
    db = open_database(tmp_path)
    keys = KeyCache(db)
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


def test_a_key_whose_first_event_was_not_committed_is_new_again(tmp_path: Path) -> None:
    db = open_database(tmp_path)
    keys = KeyCache(db)
    keys.advance(KEY)
    keys.rolled_back()
    assert keys.find(KEY) is None
    assert len(keys._by_id) == 0  # failed commits of ever new keys fill no memory
    assert keys.advance(KEY).last_seq == 1
    keys.store()
    keys.committed()
    assert keys.advance(KEY).last_seq == 2
    db.close()


def test_sums_that_do_not_agree_with_the_rows_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
