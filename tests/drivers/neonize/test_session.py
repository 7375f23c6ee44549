"""One session in its worker, with a fake library: what its events become as reports."""

from __future__ import annotations

import time

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from tests.drivers.neonize.fake_library import LOST, ONLINE, PHONE, Make


def test_the_proxy_is_handed_to_the_library(worker: Make) -> None:
    assert worker(proxy="http://localhost:1").client.proxy == ("proxy", "http://localhost:1")
    assert worker().client.proxy is None


def test_the_name_is_waited_for_once_and_not_for_ever(worker: Make) -> None:
    it = worker(paired=True)
    it.client.me.PushName = ""
    it.online()
    it.advance(2.7)
    assert it.written == []
    it.advance(0.6)
    assert it.written == [d.Online(f"+{PHONE}", "")]
    it.online()
    assert len(it.written) == 2, "the second time it is not waited for"


def test_the_name_that_comes_meanwhile_is_reported_at_once(worker: Make) -> None:
    it = worker(paired=True)
    it.client.me.PushName = ""
    it.online()
    it.advance(0.5)
    it.client.me.BussinessName = "Analytical Engines"
    it.advance(0.2)
    assert it.written == [d.Online(f"+{PHONE}", "Analytical Engines")]


def test_what_else_happens_does_not_wait_for_the_name(worker: Make) -> None:
    it = worker(paired=True)
    it.client.me.PushName = ""
    it.online()
    it.event("Disconnected", status=True)
    it.advance(0.3)
    assert it.written == [d.Online(f"+{PHONE}", ""), d.Offline()]


def test_unanswered_pings_are_reported_once_until_they_are_answered(worker: Make) -> None:
    it = worker(paired=True)
    it.event("KeepAliveTimeout", ErrorCount=1, LastSuccess=time.time())
    it.online()
    it.event("KeepAliveRestored")
    for _ in range(2):
        for _ in range(3):
            it.event("KeepAliveTimeout", ErrorCount=1, LastSuccess=time.time())
        for _ in range(2):
            it.event("KeepAliveRestored")
    assert it.written == [ONLINE, *[d.KeepAliveLost(), d.KeepAliveRestored()] * 2]


@pytest.mark.parametrize("event", ["Connected", "Disconnected"])
def test_a_new_connection_is_not_degraded(worker: Make, event: str) -> None:
    it = worker(paired=True)
    it.online()
    it.event("KeepAliveTimeout", ErrorCount=1, LastSuccess=time.time())
    it.event(event, status=True)
    it.event("KeepAliveRestored")
    assert d.KeepAliveRestored() not in it.written


def test_pings_unanswered_for_so_long_that_the_library_reconnects_are_a_loss(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.event("KeepAliveTimeout", ErrorCount=9, LastSuccess=time.time() - 181)
    assert it.written[-1] == d.Offline()
    it.ask(1)
    assert it.written[-1] == pipe.AliveReply(1, False)


def test_pings_unanswered_for_less_are_reported_as_such(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.event("KeepAliveTimeout", ErrorCount=8, LastSuccess=time.time() - 170)
    assert it.written[-1] == d.KeepAliveLost()


def test_a_loss_while_codes_are_shown_ends_the_session(worker: Make) -> None:
    it = worker()
    it.code()
    it.event("Disconnected", status=True)
    assert it.written[-1] == LOST
    assert it.ended


def test_a_loss_after_the_pairing_does_not(worker: Make) -> None:
    it = worker(paired=True)
    it.event("Disconnected", status=True)
    it.online()
    it.event("Disconnected", status=True)
    assert it.written == [d.Offline(), ONLINE, d.Offline()]
    assert not it.ended


def test_a_loss_that_is_told_after_the_new_connection_is_none(worker: Make) -> None:
    """The library hands each event over in a goroutine of its own."""
    it = worker(paired=True)
    it.online()
    it.online()
    it.event("Disconnected", status=True)
    assert it.written == [ONLINE, ONLINE]
    it.ask(1)
    assert it.written[-1] == pipe.AliveReply(1, True)
    it.event("Disconnected", status=True)
    assert it.written[-1] == d.Offline(), "the next one is"


@pytest.mark.parametrize("why", ["the library says so", "the library does not answer", "it comes much later"])
def test_a_loss_after_a_second_connection_counts_when(worker: Make, why: str) -> None:
    it = worker(paired=True)
    it.online()
    it.online()
    if why == "it comes much later":
        it.advance(6)
    it.client.connected = why != "the library says so"
    it.client.dials = why == "the library does not answer"
    it.event("Disconnected", status=True)
    it.advance(1.1)
    assert it.written == [ONLINE, ONLINE, d.Offline()]


def test_a_failed_reconnect_after_the_scan_ends_the_session(worker: Make) -> None:
    it = worker(paired=True)
    it.log(b"Failed to reconnect after 515 code: failed to dial whatsapp web websocket: EOF")
    assert it.written == [d.Unreachable("the dial failed: EOF", d.ConnectStage.DIAL)]
    assert it.ended


def test_the_end_of_the_librarys_connection_is_reported_with_what_it_logged(worker: Make) -> None:
    it = worker(paired=True)
    it.log(b'connect failure: <failure reason="463"/>')
    it.client.connection.set_exception(RuntimeError("proto: required field neonize.ConnectFailure.Reason not set"))
    it.settle()
    assert it.written == [d.ConnectFailed("463")]
    assert it.ended


def test_an_event_that_cannot_be_read_is_counted_and_survived(worker: Make) -> None:
    it = worker(paired=True)
    it.event("TemporaryBan")
    it.online()
    assert it.written == [pipe.HandledError("AttributeError"), ONLINE]
