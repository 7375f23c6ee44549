"""One session in its worker, with a fake library: queries, its end, logout."""

from __future__ import annotations

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from tests.drivers.neonize.fake_library import ONLINE, SEAT, Make


def test_a_query_is_answered_by_the_library_only_while_authenticated(worker: Make) -> None:
    it = worker(paired=True)
    it.ask(1)
    it.online()
    it.ask(2)
    it.client.logged_in = False
    it.ask(3)
    it.client.logged_in, it.client.connected = True, False
    it.ask(4)
    it.client.fails = True
    it.ask(5)
    it.event("Disconnected", status=True)
    it.ask(6)
    answers = [one for one in it.written if isinstance(one, pipe.AliveReply)]
    assert [one.connected for one in answers] == [False, True, False, False, None, False]
    assert [one.number for one in answers] == [1, 2, 3, 4, 5, 6]


def test_a_code_that_was_shown_makes_the_session_one_that_is_not_connected(worker: Make) -> None:
    it = worker()
    it.code()
    it.ask(1)
    assert it.written[-1] == pipe.AliveReply(1, False)


def test_the_library_is_asked_one_question_at_a_time(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.client.hangs = True
    it.ask(1, 2, 3)
    assert it.client.calls == ["is_logged_in"]


def test_a_logout_reports_whether_the_device_is_removed(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.log_out()
    assert it.client.calls == ["logout"]
    assert it.written[-1] == pipe.LoggedOut(SEAT, True)
    assert it.ended


@pytest.mark.parametrize("quicker", [True, False])
def test_a_logout_that_fails_since_the_phone_was_quicker_is_one(worker: Make, quicker: bool) -> None:
    """The request fails with the connection; the phone's removal is reported a moment later, or not at all."""
    it = worker(paired=True)
    it.online()
    it.client.fails = True
    it.log_out()
    it.settle()
    assert it.written == [ONLINE]
    it.loop.advance(0.5)
    if quicker:
        it.event("LoggedOut", OnConnect=False, Reason=1)
    it.loop.advance(0.6)
    it.settle()
    assert it.written[1:] == [d.LoggedOutByPhone("401") if quicker else pipe.LoggedOut(SEAT, False)]
    assert it.ended


def test_a_logout_waits_for_the_connection_and_gives_up_in_time(worker: Make) -> None:
    it = worker(paired=True)
    it.log_out()
    it.loop.advance(7.9)
    it.settle()
    assert it.written == []
    it.loop.advance(0.2)
    it.settle()
    assert it.written == [pipe.LoggedOut(SEAT, False)]
    assert it.ended


def test_a_logout_of_what_was_never_paired_is_over_at_once(worker: Make) -> None:
    it = worker()
    it.log_out()
    assert it.written == [pipe.LoggedOut(SEAT, False)]


def test_ending_the_library_waits_until_its_call_has_returned(worker: Make) -> None:
    """Its first stop may come before the library knows the session: then only the second one ends it."""
    it = worker(paired=True)
    it.session.finish()
    it.settle()
    assert it.ended
    ending = it.loop.create_task(it.session.end_library())
    it.settle()
    assert it.client.calls == ["stop"]
    assert not ending.done()
    it.client.connection.set_result(None)
    it.settle()
    assert it.client.calls == ["stop", "stop"]
    assert ending.done()
