"""A worker with many sessions, with a fake library and a stepped clock: its commands, its turns, its locks, its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from roundtrip.clock import SYSTEM, steady
from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import footprint, pipe
from roundtrip.drivers.neonize.host import LOCK_TIMEOUT, START_TURN, STOP_TIMEOUT, Host, OwnThreads
from roundtrip.drivers.neonize.key_lock import KeyLock
from roundtrip.drivers.neonize.library_events import READERS
from tests.drivers.neonize.fake_library import ONLINE, FakeClient
from tests.support.stepped_loop import SteppedLoop


class Client(FakeClient):
    """One whose call into the library ends when it is stopped."""

    def __init__(self, name: str, paired: bool) -> None:
        super().__init__()
        self.name = name
        self.paired = paired
        self.running = False

    async def stop(self) -> None:
        await super().stop()
        if not self.connection.done():
            self.connection.set_result(None)


class Process:
    """A host, and what it wrote until its process would have exited."""

    def __init__(self, loop: SteppedLoop, folder: Path, heartbeat: float = 5.0) -> None:
        self.loop = loop
        self.folder = folder
        self.written: list[Any] = []
        self.clients: list[Client] = []
        self.exits: list[int] = []
        commands, self._parent = os.pipe()
        library = SimpleNamespace(
            ProxySettings=lambda address: address,
            EVENTS={name: name for name in (*READERS, "Connected")},
            read_log=lambda *_args, **_kwargs: None,
            make_client=self._make,
            is_running=lambda client: client.running,
        )
        begin = pipe.Begin(str(folder), heartbeat=heartbeat)
        output: Any = SimpleNamespace(write=self.written.append)
        self.task = loop.create_task(Host(output, commands, begin, library, self.exits.append).run())
        self.settle()

    def _make(self, name: str, _session: str, _device: str, *, paired: bool) -> Client:
        self.clients.append(Client(name, paired))
        return self.clients[-1]

    def settle(self) -> None:
        for _ in range(4):
            self.loop.settle()

    def command(self, *commands: msgspec.Struct) -> None:
        for command in commands:
            os.write(self._parent, pipe.encode(command))
        self.settle()

    def open(self, seat: int, *, up: bool = True) -> None:
        """A paired session; `up`: the library registers it at once."""
        self.command(pipe.Open(seat, f"link-{seat}", f"{seat}.db", paired=True))
        if up:
            self.up(-1)

    def up(self, number: int) -> None:
        self.clients[number].running = True
        self.loop.advance(0.01)
        self.settle()
        self.event(number, "Connected")

    def event(self, number: int, name: str, **fields: Any) -> None:
        self.loop.run(self.clients[number].handlers[name](None, SimpleNamespace(**fields)))  # type: ignore[arg-type]
        self.settle()

    def said(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.written if isinstance(message, kind)]

    def close(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1
            self.settle()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Process]:
    loop = SteppedLoop()
    loop.set_exception_handler(lambda *_: None)
    process = Process(loop, tmp_path)
    try:
        yield process
    finally:
        process.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        loop.close()


def test_each_session_reports_from_its_own_seat(host: Process) -> None:
    host.open(1)
    host.open(2)
    assert host.said(pipe.Reported) == [pipe.Reported(1, ONLINE), pipe.Reported(2, ONLINE)]
    host.event(0, "Disconnected", status=True)
    assert host.said(pipe.Reported)[2:] == [pipe.Reported(1, d.Offline())]
    host.command(pipe.AliveQuery(2, 5), pipe.AliveQuery(1, 6), pipe.AliveQuery(9, 7))
    assert {(one.number, one.connected) for one in host.said(pipe.AliveReply)} == {(5, True), (6, False), (7, False)}


def test_sessions_enter_the_library_one_after_the_other(host: Process) -> None:
    for seat in (1, 2, 3):
        host.open(seat, up=False)
    entered = [client for client in host.clients if client.handlers]
    assert [client.name for client in entered] == ["1.db"]
    host.up(0)
    assert [client.name for client in host.clients if client.handlers] == ["1.db", "2.db"]
    host.loop.advance(START_TURN + 0.01)  # the second one's dial hangs: it has certainly been registered
    host.settle()
    assert [client.name for client in host.clients if client.handlers] == ["1.db", "2.db", "3.db"]


def test_closing_one_leaves_the_others_alone(host: Process) -> None:
    host.open(1)
    host.open(2)
    host.command(pipe.Close(1))
    assert host.said(pipe.Closed) == [pipe.Closed(1)]
    assert host.clients[0].calls == ["stop", "stop"]
    assert host.clients[1].calls == []
    assert host.exits == []


def test_a_session_that_is_over_frees_its_key_file(host: Process) -> None:
    host.open(1)
    assert KeyLock.take(host.folder / "1.db") is None
    host.event(0, "StreamReplaced")
    assert host.said(pipe.Reported)[-1] == pipe.Reported(1, d.StreamReplaced())
    assert host.said(pipe.Closed) == [pipe.Closed(1)]
    lock = KeyLock.take(host.folder / "1.db")
    assert lock is not None
    with lock:
        assert (host.folder / "1.db").stat().st_mode & 0o777 == 0o600


def test_a_session_whose_library_does_not_end_keeps_its_key_file(host: Process) -> None:
    """As it may while it dials: nobody else may use the keys until it has."""
    host.open(1)
    host.clients[0].hangs = True
    host.command(pipe.Close(1))
    assert host.said(pipe.Closed) == []
    assert KeyLock.take(host.folder / "1.db") is None


def test_a_key_file_that_is_in_use_is_waited_for_and_never_opened(host: Process) -> None:
    with (host.folder / "1.db").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        host.open(1, up=False)
        host.loop.advance(LOCK_TIMEOUT / 2)
        host.settle()
        assert host.clients == []
        for _ in range(300):
            host.loop.advance(0.02)
        host.settle()
    assert host.clients == []
    (report,) = host.said(pipe.Reported)
    assert isinstance(report.report, d.Unreachable)
    assert host.said(pipe.Closed) == [pipe.Closed(1)]


@pytest.mark.parametrize("command", [pipe.Close(1), pipe.LogOut(1)])
def test_a_session_may_be_asked_to_end_before_it_has_begun(host: Process, command: pipe.Close | pipe.LogOut) -> None:
    host.command(pipe.Open(1, "link-1", "1.db", paired=True), command)
    if isinstance(command, pipe.LogOut):
        host.up(0)
        assert host.clients[0].calls[0] == "logout", "once it is connected"
        assert host.said(pipe.LoggedOut) == [pipe.LoggedOut(1, True)]
    assert host.said(pipe.Closed) == [pipe.Closed(1)]


def test_a_session_that_did_not_pair_ends_with_its_process(host: Process) -> None:
    host.command(pipe.Open(1, "one", "1.db"))
    host.loop.advance(START_TURN + 0.01)
    host.loop.run(host.clients[0].on_qr(None, b"2@abc"))  # type: ignore[arg-type]
    host.settle()
    host.command(pipe.Close(1))
    assert not host.clients[0].paired, "what it writes waits for the disk"
    assert host.clients[0].calls == [], "the library cannot end it"
    assert host.exits == [0]


def test_the_end_waits_for_the_sessions_but_not_for_ever(host: Process) -> None:
    host.open(1)
    host.open(2)
    host.clients[1].hangs = True
    host.command(pipe.End())
    assert host.said(pipe.Closed) == [pipe.Closed(1)]
    assert host.exits == []
    host.loop.advance(STOP_TIMEOUT + 0.1)
    host.settle()
    assert host.exits == [0]


def test_a_worker_whose_parent_is_gone_ends(host: Process) -> None:
    host.close()
    assert host.exits == [0]


def test_the_kernel_is_asked_to_end_it_at_the_time_that_was_named_last(
    host: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[tuple[int, float]] = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: alarms.append((which, seconds)))
    now = steady(SYSTEM)()
    host.command(pipe.RunUntil(now + 20), pipe.RunUntil(now + 30))
    assert [which for which, _ in alarms] == [signal.ITIMER_REAL] * 2
    assert 15 < alarms[0][1] <= 20
    assert 25 < alarms[1][1] <= 30
    assert host.exits == []
    host.command(pipe.RunUntil(now - 1))  # it comes late: this process, or the driver's, was stopped
    assert host.exits == [0]


def test_a_line_that_is_no_command_is_counted(host: Process) -> None:
    os.write(host._parent, b"nonsense\n")
    host.open(1)
    assert host.said(pipe.HandledError) == [pipe.HandledError("InvalidLine")]
    assert host.said(pipe.Reported) == [pipe.Reported(1, ONLINE)]


def test_a_client_that_cannot_be_made_ends_its_session_only(host: Process) -> None:
    host.open(1)
    (host.folder / "2.db").mkdir()
    host.open(2, up=False)
    assert host.said(pipe.HandledError) == [pipe.HandledError("IsADirectoryError")]
    assert host.said(pipe.Closed) == [pipe.Closed(2)]
    assert host.exits == []


def test_beats_come_as_often_as_was_asked_for_and_measure_now_and_then(host: Process) -> None:
    for _ in range(3):
        host.loop.advance(5.0)
    beats = host.said(pipe.Heartbeat)
    assert len(beats) == 4
    assert [beat.memory is not None for beat in beats] == [True, False, False, True]


def test_memory_is_released_after_the_newest_start_and_again_later(
    host: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: list[float] = []
    monkeypatch.setattr(footprint, "release_memory", lambda: at.append(host.loop.time()))
    host.open(1)
    host.loop.advance(1.0)
    host.open(2)
    started = host.loop.time()
    pauses = (2, 15, 60, 180, 900, 900)
    for times, pause in enumerate(pauses):
        host.loop.advance(pause - 0.5)
        assert len(at) == times
        host.loop.advance(0.5)
        host.settle()
        assert len(at) == times + 1, "once, not once per session"
    assert at[-1] - started == pytest.approx(sum(pauses), abs=0.1)


def test_every_call_has_a_thread_of_its_own() -> None:
    async def many() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(OwnThreads())
        import threading

        meet = threading.Barrier(50, timeout=5)
        await asyncio.gather(*(asyncio.to_thread(meet.wait) for _ in range(50)))
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return 50

    assert asyncio.run(many()) == 50
