"""One session in its worker, against a library that is played at its outermost edge: what comes in, what goes out.

The clock is the test's, and the end of the process is noted in place of happening.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import pipe
from roundtrip.drivers.neonize import session as worker_session
from roundtrip.drivers.neonize.library_events import CODES, FIRST_CODE, LATER_CODE, READERS
from roundtrip.drivers.neonize.session import Reports, WorkerSession
from tests.support.stepped_loop import SteppedLoop

PHONE = "447441395830"
LOST = d.Unreachable("the connection was lost before a phone was paired")


class FakeClient:
    """As much of neonize's client as a worker touches."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[Any, Any], Awaitable[None]]] = {}
        self.on_qr: Callable[[Any, bytes], Awaitable[None]]
        self.proxy: Any = None
        self.me = SimpleNamespace(PushName="Ada", BussinessName="", JID=SimpleNamespace(User=PHONE))
        self.logged_in, self.connected = True, True
        self.calls: list[str] = []
        self.hangs = False
        self.fails = False
        self.connection: asyncio.Future[None]

    def qr(self, handler: Callable[[Any, bytes], Awaitable[None]]) -> None:
        self.on_qr = handler

    def event(self, name: str) -> Callable[[Any], None]:
        return lambda handler: self.handlers.__setitem__(name, handler)

    async def connect(self, proxy: Any) -> asyncio.Future[None]:
        self.proxy = proxy
        self.connection = asyncio.get_running_loop().create_future()
        return self.connection

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.fails:
            raise RuntimeError("447441395830")
        if self.hangs:
            await asyncio.get_running_loop().create_future()

    async def get_me(self) -> Any:
        return self.me

    @property
    async def is_logged_in(self) -> bool:
        await self._call("is_logged_in")
        return self.logged_in

    @property
    async def is_connected(self) -> bool:
        return self.connected

    async def stop(self) -> None:
        await self._call("stop")

    async def logout(self) -> None:
        await self._call("logout")


class Worker:
    """A session that runs, and what it said until its process would have ended."""

    def __init__(self, loop: SteppedLoop, **begin: Any) -> None:
        self.loop = loop
        self.client = FakeClient()
        self.said: list[Any] = []
        self.beats = 0
        self.ended: int | None = None
        """The exit code."""
        self.take: Callable[[bytes], None]
        self.pairing: bool
        self.pair_code: Any = "ABCD-EFGH"
        self.asked_for: list[str] = []
        self.pair_takes = 0.0
        self.commands, self._parent = os.pipe()
        library = SimpleNamespace(
            ProxySettings=lambda address: ("proxy", address),
            EVENTS={name: name for name in (*READERS, "Connected")},
            read_log=self._read_log,
            pair_phone=self._pair_phone,
        )
        begun = pipe.Begin("one", "/nowhere/one.db", **begin)
        reports: Any = SimpleNamespace(say=self._say)
        self.session = WorkerSession(reports, self.commands, begun, self.client, library)
        self.task = loop.create_task(self.session.run())
        loop.settle()
        loop.settle()

    def _say(self, message: Any) -> None:
        if self.ended is not None:
            return
        if isinstance(message, pipe.Heartbeat):
            self.beats += 1
        else:
            self.said.append(message)

    def _read_log(self, take: Callable[[bytes], None], *, pairing: bool) -> None:
        self.take, self.pairing = take, pairing

    async def _pair_phone(self, _client: Any, digits: str) -> str:
        self.asked_for.append(digits)
        await asyncio.sleep(self.pair_takes)
        if isinstance(self.pair_code, Exception):
            raise self.pair_code
        return str(self.pair_code)

    def exit(self, code: int) -> None:
        if self.ended is None:
            self.ended = code
            raise asyncio.CancelledError

    def settle(self) -> None:
        for _ in range(3):
            self.loop.settle()

    def hear(self, name: str, **fields: Any) -> None:
        """An event of the library."""
        message = SimpleNamespace(**fields)
        self.loop.run(self.client.handlers[name](None, message))  # type: ignore[arg-type]  # they are coroutines
        self.settle()

    def code(self, text: str = "2@abc") -> None:
        self.loop.run(self.client.on_qr(None, text.encode()))  # type: ignore[arg-type]
        self.settle()

    def status(self, text: bytes) -> None:
        """What became of the library's QR channel."""
        buffer = ctypes.create_string_buffer(text)
        self.client._NewAClient__onLoginStatus(0, ctypes.addressof(buffer))  # type: ignore[attr-defined]
        self.settle()

    def log(self, line: bytes) -> None:
        self.take(line)
        self.settle()

    def online(self) -> None:
        self.hear("Connected")

    def command(self, *commands: msgspec.Struct) -> None:
        for command in commands:
            os.write(self._parent, pipe.encode(command))
        self.settle()

    def hang_up(self) -> None:
        """The parent is gone."""
        os.close(self._parent)
        self._parent = -1
        self.settle()

    def paired(self) -> None:
        self.hear("PairStatus", ID=SimpleNamespace(User=PHONE), Error="", Status=2, DESCRIPTOR=None)

    def advance(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass in small steps, as it does."""
        for _ in range(round(seconds / step)):
            self.loop.advance(step)

    def close(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    loop = SteppedLoop()
    made: list[Worker] = []

    def leave(code: int) -> None:
        made[-1].exit(code)

    def make(**begin: Any) -> Worker:
        started = Worker.__new__(Worker)
        made.append(started)
        started.__init__(loop, **begin)  # type: ignore[misc]  # the end may come while it starts
        return started

    monkeypatch.setattr(worker_session.os, "_exit", leave)  # type: ignore[attr-defined]
    loop.set_exception_handler(lambda *_: None)
    try:
        yield make
    finally:
        for one in made:
            one.ended = one.ended or 0
            one.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        loop.close()


Make = Callable[..., Worker]
ONLINE = d.Online(f"+{PHONE}", "Ada")


def test_codes_are_told_with_their_number_their_total_and_their_time(worker: Make) -> None:
    it = worker()
    assert it.pairing
    it.code("2@a")
    it.code("2@b")
    assert it.said == [d.QrShown("2@a", 1, CODES, FIRST_CODE), d.QrShown("2@b", 2, CODES, LATER_CODE)]


def test_the_number_of_codes_is_the_one_that_whatsapp_gave(worker: Make) -> None:
    it = worker()
    it.log(b"<pair-device><ref>2@a</ref><ref>2@b</ref></pair-device>")
    it.code("2@a")
    assert it.said == [d.QrShown("2@a", 1, 2, LATER_CODE)]


def test_the_codes_are_used_up_by_the_clock_when_the_library_says_nothing(worker: Make) -> None:
    it = worker(code_life=50.0)
    it.code()
    it.loop.advance(49.9)
    it.settle()
    assert d.CodesUsedUp() not in it.said
    it.loop.advance(0.2)
    it.settle()
    assert it.said[-1] == d.CodesUsedUp()
    assert it.ended == 0


def test_the_clock_ends_no_session_that_was_paired_meanwhile(worker: Make) -> None:
    it = worker(code_life=50.0)
    it.code()
    it.online()
    it.loop.advance(60)
    it.settle()
    assert it.ended is None
    assert d.CodesUsedUp() not in it.said


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
    assert it.said[-1] == end
    assert it.ended == 0


@pytest.mark.parametrize(("early", "end"), [(0.5, d.CodesUsedUp()), (1.5, LOST)])
def test_a_silent_log_leaves_it_to_the_clock_whether_the_last_code_ended(
    worker: Make, early: float, end: d.Report
) -> None:
    it = worker()
    it.log(b"<pair-device><ref>2@a</ref></pair-device>")
    it.code()
    it.loop.advance(LATER_CODE - early)
    it.status(b"timeout")
    assert it.said[-1] == end


@pytest.mark.parametrize("status", [b"timeout", b"error"])
def test_the_state_of_the_codes_says_nothing_of_a_paired_account(worker: Make, status: bytes) -> None:
    it = worker(paired=True)
    assert not it.pairing
    it.status(status)
    it.online()
    it.status(status)
    assert it.said == [ONLINE]


def test_a_connection_lost_before_the_first_code_is_a_loss(worker: Make) -> None:
    it = worker()
    it.status(b"timeout")
    assert it.said == [LOST]
    assert it.ended == 0


def test_other_words_on_the_codes_end_nothing(worker: Make) -> None:
    it = worker()
    it.code()
    it.status(b"success")
    assert it.ended is None


def test_a_pairing_code_is_shown_in_place_of_codes_to_scan(worker: Make) -> None:
    it = worker(phone_number=f"+{PHONE}", code_life=100.0)
    it.pair_takes = 3.0
    it.code()
    it.loop.advance(3)
    it.settle()
    it.code()
    assert it.asked_for == [PHONE]
    assert it.said == [d.PairingCodeShown("ABCD-EFGH", 97.0)]


def test_a_pairing_code_that_is_refused_ends_the_session_without_its_text(worker: Make) -> None:
    it = worker(phone_number=f"+{PHONE}")
    it.pair_code = ValueError(PHONE)
    it.code()
    it.loop.settle()
    assert it.said == [pipe.Trouble("ValueError"), d.ConnectFailed("pairing_code_refused")]
    assert it.ended == 0


def test_the_proxy_is_handed_to_the_library(worker: Make) -> None:
    assert worker(proxy="http://localhost:1").client.proxy == ("proxy", "http://localhost:1")
    assert worker().client.proxy is None


def test_the_name_is_waited_for_once_and_not_for_ever(worker: Make) -> None:
    it = worker(paired=True)
    it.client.me.PushName = ""
    it.online()
    it.advance(2.7)
    assert it.said == []
    it.advance(0.6)
    assert it.said == [d.Online(f"+{PHONE}", "")]
    it.online()
    assert len(it.said) == 2, "the second time it is not waited for"


def test_the_name_that_comes_meanwhile_is_told_at_once(worker: Make) -> None:
    it = worker(paired=True)
    it.client.me.PushName = ""
    it.online()
    it.advance(0.5)
    it.client.me.BussinessName = "Analytical Engines"
    it.advance(0.2)
    assert it.said == [d.Online(f"+{PHONE}", "Analytical Engines")]


def test_what_else_happens_does_not_wait_for_the_name(worker: Make) -> None:
    it = worker(paired=True)
    it.client.me.PushName = ""
    it.online()
    it.hear("Disconnected", status=True)
    it.advance(0.3)
    assert it.said == [d.Online(f"+{PHONE}", ""), d.Offline()]


def test_unanswered_pings_are_told_once_until_they_are_answered(worker: Make) -> None:
    it = worker(paired=True)
    it.hear("KeepAliveTimeout", ErrorCount=1, LastSuccess=time.time())
    it.online()
    it.hear("KeepAliveRestored")
    for _ in range(2):
        for _ in range(3):
            it.hear("KeepAliveTimeout", ErrorCount=1, LastSuccess=time.time())
        for _ in range(2):
            it.hear("KeepAliveRestored")
    assert it.said == [ONLINE, *[d.KeepAliveLost(), d.KeepAliveRestored()] * 2]


@pytest.mark.parametrize("event", ["Connected", "Disconnected"])
def test_a_new_connection_is_not_degraded(worker: Make, event: str) -> None:
    it = worker(paired=True)
    it.online()
    it.hear("KeepAliveTimeout", ErrorCount=1, LastSuccess=time.time())
    it.hear(event, status=True)
    it.hear("KeepAliveRestored")
    assert d.KeepAliveRestored() not in it.said


def test_pings_unanswered_for_so_long_that_the_library_reconnects_are_a_loss(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.hear("KeepAliveTimeout", ErrorCount=9, LastSuccess=time.time() - 181)
    assert it.said[-1] == d.Offline()
    it.command(pipe.AliveQuery(1))
    assert it.said[-1] == pipe.Answer(1, False)


def test_pings_unanswered_for_less_are_told_as_such(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.hear("KeepAliveTimeout", ErrorCount=8, LastSuccess=time.time() - 170)
    assert it.said[-1] == d.KeepAliveLost()


def test_a_loss_while_codes_are_shown_ends_the_session(worker: Make) -> None:
    it = worker()
    it.code()
    it.hear("Disconnected", status=True)
    assert it.said[-1] == LOST
    assert it.ended == 0


def test_a_loss_after_the_pairing_does_not(worker: Make) -> None:
    it = worker(paired=True)
    it.hear("Disconnected", status=True)
    it.online()
    it.hear("Disconnected", status=True)
    assert it.said == [d.Offline(), ONLINE, d.Offline()]
    assert it.ended is None


def test_a_failed_reconnect_after_the_scan_ends_the_session(worker: Make) -> None:
    it = worker(paired=True)
    it.log(b"Failed to reconnect after 515 code: failed to dial whatsapp web websocket: EOF")
    assert it.said == [d.Unreachable("the dial failed: EOF", d.ConnectStage.DIAL)]
    assert it.ended == 0


def test_the_end_of_the_librarys_connection_is_told_with_what_it_logged(worker: Make) -> None:
    it = worker(paired=True)
    it.log(b'connect failure: <failure reason="463"/>')
    it.client.connection.set_exception(RuntimeError("proto: required field neonize.ConnectFailure.Reason not set"))
    it.settle()
    assert it.said == [d.ConnectFailed("463")]
    assert it.ended == 0


def test_an_event_that_cannot_be_read_is_counted_and_survived(worker: Make) -> None:
    it = worker(paired=True)
    it.hear("TemporaryBan")
    it.online()
    assert it.said == [pipe.Trouble("AttributeError"), ONLINE]


def test_an_answer_is_given_only_where_the_librarys_word_counts(worker: Make) -> None:
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
    it.hear("Disconnected", status=True)
    it.command(pipe.AliveQuery(6))
    answers = [one for one in it.said if isinstance(one, pipe.Answer)]
    assert [one.connected for one in answers] == [None, True, False, False, None, False]
    assert [one.number for one in answers] == [1, 2, 3, 4, 5, 6]


def test_a_code_that_was_shown_makes_the_session_one_that_is_not_connected(worker: Make) -> None:
    it = worker()
    it.code()
    it.command(pipe.AliveQuery(1))
    assert it.said[-1] == pipe.Answer(1, False)


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


def test_a_logout_says_whether_the_device_is_gone(worker: Make) -> None:
    it = worker(paired=True)
    it.online()
    it.command(pipe.LogOut())
    assert it.client.calls == ["logout", "stop"]
    assert it.said[-1] == pipe.LoggedOut(True)
    assert it.ended == 0


def test_a_logout_waits_for_the_connection_and_gives_up_in_time(worker: Make) -> None:
    it = worker(paired=True)
    it.command(pipe.LogOut())
    it.loop.advance(7.9)
    it.settle()
    assert it.said == []
    it.loop.advance(0.2)
    it.settle()
    assert it.said == [pipe.LoggedOut(False)]
    assert it.ended == 0


def test_a_logout_of_what_was_never_paired_is_over_at_once(worker: Make) -> None:
    it = worker()
    it.command(pipe.LogOut())
    assert it.said == [pipe.LoggedOut(False)]


def test_a_worker_whose_parent_is_gone_ends(worker: Make) -> None:
    it = worker(paired=True)
    it.hang_up()
    assert it.ended == 0


def test_a_line_that_is_no_command_is_counted(worker: Make) -> None:
    it = worker(paired=True)
    os.write(it._parent, b"nonsense\n")
    it.settle()
    assert it.said == [pipe.Trouble("InvalidLine")]
    it.online()
    assert it.said[-1] == ONLINE


def test_beats_come_as_often_as_was_asked_for(worker: Make) -> None:
    it = worker(heartbeat=2.0)
    assert it.beats == 1
    for _ in range(3):
        it.loop.advance(2.0)
    assert it.beats == 4


def test_memory_is_given_back_after_the_first_connection_and_again_later(
    worker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: list[float] = []
    it = worker(paired=True)
    monkeypatch.setattr(worker_session, "release_memory", lambda: at.append(it.loop.time()))
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


def test_a_report_is_written_whole_to_a_parent_that_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    write = os.write
    monkeypatch.setattr(worker_session.os, "write", lambda fd, data: write(fd, bytes(data[:5])))  # type: ignore[attr-defined]
    Reports(writing).say(d.QrShown("2@" + "x" * 90, 1, 6, 60.0))
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        assert lines.read() == pipe.encode(d.QrShown("2@" + "x" * 90, 1, 6, 60.0))
