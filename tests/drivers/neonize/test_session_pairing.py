"""One session in its worker, with a fake library: codes, and how a pairing ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize.library_events import CODES, FIRST_CODE_TTL, LATER_CODE_TTL
from tests.drivers.neonize.fake_library import LOST, ONLINE, PHONE, Make


def test_codes_are_reported_with_their_index_total_and_ttl(worker: Make) -> None:
    it = worker()
    assert it.pairing
    it.code("2@a")
    it.code("2@b")
    assert it.written == [d.QrShown("2@a", 1, CODES, FIRST_CODE_TTL), d.QrShown("2@b", 2, CODES, LATER_CODE_TTL)]


def test_the_number_of_codes_is_the_one_that_whatsapp_gave(worker: Make) -> None:
    it = worker()
    it.log(b"<pair-device><ref>2@a</ref><ref>2@b</ref></pair-device>")
    it.code("2@a")
    assert it.written == [d.QrShown("2@a", 1, 2, LATER_CODE_TTL)]


def test_the_codes_are_used_up_by_the_clock_when_the_library_is_silent(worker: Make) -> None:
    it = worker(code_life=50.0)
    it.code()
    it.loop.advance(49.9)
    it.settle()
    assert d.CodesUsedUp() not in it.written
    it.loop.advance(0.2)
    it.settle()
    assert it.written[-1] == d.CodesUsedUp()
    assert it.ended


def test_the_clock_ends_no_session_that_was_paired_meanwhile(worker: Make) -> None:
    it = worker(code_life=50.0)
    it.code()
    it.online()
    it.loop.advance(60)
    it.settle()
    assert not it.ended
    assert d.CodesUsedUp() not in it.written


@pytest.mark.parametrize(
    ("log", "status", "end"),
    [
        (b"Ran out of QR codes, closing", b"timeout", d.CodesUsedUp()),
        (b"", b"timeout", LOST),
        (b"", b"error", d.ConnectFailed("pair_error")),
    ],
)
def test_how_the_codes_ended(worker: Make, log: bytes, status: bytes, end: d.Report) -> None:
    it = worker()
    it.log(log)
    it.code()
    it.status(status)
    assert it.written[-1] == end
    assert it.ended


@pytest.mark.parametrize(("early", "end"), [(0.5, d.CodesUsedUp()), (1.5, LOST)])
def test_a_silent_log_leaves_it_to_the_clock_whether_the_last_code_ended(
    worker: Make, early: float, end: d.Report
) -> None:
    it = worker()
    it.log(b"<pair-device><ref>2@a</ref></pair-device>")
    it.code()
    it.loop.advance(LATER_CODE_TTL - early)
    it.status(b"timeout")
    assert it.written[-1] == end


@pytest.mark.parametrize("status", [b"timeout", b"error"])
def test_the_login_status_is_ignored_for_a_paired_account(worker: Make, status: bytes) -> None:
    it = worker(paired=True)
    assert not it.pairing
    it.status(status)
    it.online()
    it.status(status)
    assert it.written == [ONLINE]


def test_a_connection_lost_before_the_first_code_is_a_loss(worker: Make) -> None:
    it = worker()
    it.status(b"timeout")
    assert it.written == [LOST]
    assert it.ended


def test_another_login_status_ends_nothing(worker: Make) -> None:
    it = worker()
    it.code()
    it.status(b"success")
    assert not it.ended


def test_a_pairing_code_is_shown_in_place_of_codes_to_scan(worker: Make) -> None:
    it = worker(phone_number=f"+{PHONE}", code_life=100.0)
    it.pair_takes = 3.0
    it.code()
    it.loop.advance(3)
    it.settle()
    it.code()
    assert it.requested_for == [PHONE]
    assert it.written == [d.PairingCodeShown("ABCD-EFGH", 97.0)]


def test_a_pairing_code_that_is_refused_ends_the_session_without_its_text(worker: Make) -> None:
    it = worker(phone_number=f"+{PHONE}")
    it.pair_code = ValueError(PHONE)
    it.code()
    it.loop.settle()
    assert it.written == [pipe.HandledError("ValueError"), d.ConnectFailed("pairing_code_refused")]
    assert it.ended


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_session_that_has_paired_leaves_the_login_to_another_worker(
    worker: Make, asked_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WhatsApp asks for the login with a 515; the library is held there while the pairing is told."""
    held: list[float] = []
    monkeypatch.setattr("roundtrip.drivers.neonize.session.time.sleep", held.append)
    it = worker(hand_over=True)
    it.code()
    steps: list[Callable[[], None]] = [it.paired, lambda: it.log(b"Got 515 code, reconnecting...")]
    for step in reversed(steps) if asked_first else steps:
        assert not it.ended
        step()
    assert held == [5.0]
    assert it.ended
    assert it.session.handed_over
    assert it.written[-1] == d.PairSucceeded(f"+{PHONE}")


def test_a_session_that_logs_in_all_the_same_is_handed_over_then(worker: Make) -> None:
    it = worker(hand_over=True)
    it.code()
    it.paired()
    it.online()
    assert it.session.handed_over
    assert it.written[-1] == d.PairSucceeded(f"+{PHONE}")


def test_a_session_that_stays_where_it_paired_logs_in_there(worker: Make) -> None:
    it = worker()
    it.code()
    it.paired()
    it.log(b"Got 515 code, reconnecting...")
    it.online()
    assert not it.ended
    assert it.written[-1] == ONLINE
