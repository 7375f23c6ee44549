"""One session in its worker, with a fake library: queries, stop, logout, heartbeats, released memory."""

from __future__ import annotations

import os

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import footprint, pipe
from tests.drivers.neonize.fake_library import ONLINE, Make


def test_a_query_is_answered_by_the_library_only_while_authenticated(worker: Make) -> None:
    it = worker(paired=True)
    it.command(pipe.AliveQuery(1))
    it.online()
    it.command(pipe.AliveQuery(2))
    it.client.logged_in = False
    it.command(pipe.AliveQuery(3))
    it.client.logged_in, it.client.connected = True, False
    it.command(pipe.AliveQuery(4))
    it.client.fails = True
    it.command(pipe.AliveQuery(5))
    it.event("Disconnected", status=True)
    it.command(pipe.AliveQuery(6))
    answers = [one for one in it.written if isinstance(one, pipe.AliveReply)]
    assert [one.connected for one in answers] == [None, True, False, False, None, False]
    assert [one.number for one in answers] == [1, 2, 3, 4, 5, 6]


def test_a_code_that_was_shown_makes_the_session_one_that_is_not_connected(worker: Make) -> None:
    it = worker()
    it.code()
    it.command(pipe.AliveQuery(1))
    assert it.written[-1] == pipe.AliveReply(1, False)


def test_the_library_is_asked_one_question_at_a_time(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.client.hangs = True
    it.command(pipe.AliveQuery(1), pipe.AliveQuery(2), pipe.AliveQuery(3))
    assert it.client.calls == ["is_logged_in"]


@pytest.mark.parametrize(("fails", "hangs"), [(False, False), (True, False), (False, True)])
def test_a_stop_ends_the_process_whatever_the_library_does(worker: Make, fails: bool, hangs: bool) -> None:
    it = worker(paired=True)
    it.online()
    it.client.fails, it.client.hangs = fails, hangs
    it.command(pipe.Stop())
    if hangs:
        assert it.ended is None
        it.loop.advance(3.0)
        it.settle()
    assert it.client.calls == ["stop"]
    assert it.ended == 0


@pytest.mark.parametrize("paired", [False, True])
def test_a_session_that_is_not_paired_or_not_known_yet_is_ended_without_the_library(worker: Make, paired: bool) -> None:
    it = worker(paired=paired)
    if not paired:
        it.code()
    it.command(pipe.Stop())
    assert it.client.calls == []
    assert it.ended == 0


def test_a_logout_reports_whether_the_device_is_removed(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.command(pipe.LogOut())
    assert it.client.calls == ["logout", "stop"]
    assert it.written[-1] == pipe.LoggedOut(True)
    assert it.ended == 0


@pytest.mark.parametrize("quicker", [True, False])
def test_a_logout_that_fails_since_the_phone_was_quicker_is_one(worker: Make, quicker: bool) -> None:
    """The request fails with the connection; the phone's removal is reported a moment later, or not at all."""
    it = worker(paired=True)
    it.online()
    it.client.fails = True
    it.command(pipe.LogOut())
    it.settle()
    assert it.written == [ONLINE]
    it.loop.advance(0.5)
    if quicker:
        it.event("LoggedOut", OnConnect=False, Reason=1)
    it.loop.advance(0.6)
    it.settle()
    assert it.written[1:] == [d.LoggedOutByPhone("401") if quicker else pipe.LoggedOut(False)]
    assert it.ended == 0


def test_a_logout_waits_for_the_connection_and_gives_up_in_time(worker: Make) -> None:
    it = worker(paired=True)
    it.command(pipe.LogOut())
    it.loop.advance(7.9)
    it.settle()
    assert it.written == []
    it.loop.advance(0.2)
    it.settle()
    assert it.written == [pipe.LoggedOut(False)]
    assert it.ended == 0


def test_a_logout_of_what_was_never_paired_is_over_at_once(worker: Make) -> None:
    it = worker()
    it.command(pipe.LogOut())
    assert it.written == [pipe.LoggedOut(False)]


def test_a_worker_whose_parent_is_gone_ends(worker: Make) -> None:
    it = worker(paired=True)
    it.close_pipe()
    assert it.ended == 0


def test_a_line_that_is_no_command_is_counted(worker: Make) -> None:
    it = worker(paired=True)
    os.write(it._parent, b"nonsense\n")
    it.settle()
    assert it.written == [pipe.HandledError("InvalidLine")]
    it.online()
    assert it.written[-1] == ONLINE


def test_beats_come_as_often_as_was_asked_for(worker: Make) -> None:
    it = worker(heartbeat=2.0)
    assert it.heartbeats == 1
    for _ in range(3):
        it.loop.advance(2.0)
    assert it.heartbeats == 4


def test_memory_is_released_after_the_first_connection_and_again_later(
    worker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: list[float] = []
    it = worker(paired=True)
    monkeypatch.setattr(footprint, "release_memory", lambda: at.append(it.loop.time()))
    started = it.loop.time()
    it.online()
    it.online()
    it.settle()
    pauses = (2, 15, 60, 180, 900, 900)
    for times, pause in enumerate(pauses):
        it.loop.advance(pause - 0.5)
        assert len(at) == times
        it.loop.advance(0.5)
        assert len(at) == times + 1, "once, not once per connection"
    assert at[-1] - started == pytest.approx(sum(pauses))
