"""Many accounts in one worker, with the real library: they share a process and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import driver_session, shared_worker, upkeep
from roundtrip.drivers.neonize import process as neonize_process
from roundtrip.drivers.neonize.key_lock import KeyLock
from tests.drivers.neonize.helpers import gone
from tests.support.reports import ReportRecorder
from tests.whatsapp.groups import Group
from tests.whatsapp.hosts import LOAD, Hosts, Member, until
from tests.whatsapp.stand_in import stand_in
from tests.whatsapp.troubles import How, Stage

pytestmark = pytest.mark.slow

MEGABYTE = 1024 * 1024
BACK = 5.0
"""Seconds within which a host's sessions are back."""


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with stand_in() as whatsapp:
        bench = Hosts(tmp_path, whatsapp)
        bench.restart()
        try:
            yield bench
        finally:
            await bench.driver.close()


async def test_a_session_that_has_paired_moves_to_a_host_before_it_logs_in(hosts: Hosts) -> None:
    one = await hosts.link(0)
    assert one.reports.names == ["QrShown", "PairSucceeded", "Online"], "nothing of the move is told"
    assert one.account.logins == 1, "the only login is the host's"
    two = await hosts.link(1)
    assert one.session.pid == two.session.pid
    assert hosts.workers == {one.session.worker: 2}
    await until(lambda: len(hosts.driver.workers()) == 1)
    assert hosts.exits == ["stopped", "stopped"], "the workers in which they paired"


async def test_with_one_session_per_worker_everybody_is_alone(hosts: Hosts) -> None:
    hosts.restart(sessions_per_worker=1)
    members = await hosts.link_many(3)
    assert len({member.session.pid for member in members}) == 3
    assert hosts.exits == [], "who has paired stays"
    os.kill(members[0].session.pid, signal.SIGKILL)
    await until(members[0].back)
    assert not members[1].news()


async def test_two_sessions_of_one_account_keep_apart(hosts: Hosts) -> None:
    first = await hosts.link(0)
    reports = ReportRecorder()
    second = await hosts.driver.start(hosts.spec("again"), reports)
    code = await reports.next(d.QrShown)
    await hosts.whatsapp.scan(code.qr, first.phone, "Ada")
    await reports.next(d.Online, within=LOAD)
    assert first.session.worker != second.worker


@pytest.mark.alone
async def test_a_killed_hosts_sessions_are_back_soon_and_nobody_else_notices(hosts: Hosts) -> None:
    hosts.restart(sessions_per_worker=8)
    members = await hosts.link_many(9)
    lost = [one for one in members if hosts.workers[str(one.session.worker)] == 8]
    (other,) = [one for one in members if one not in lost]
    await hosts.link(9)
    for one in lost:
        one.forget()
    os.kill(lost[0].session.pid, signal.SIGKILL)
    took = await until(lambda: all(one.back() for one in lost))
    print(f"\n8 sessions back {took:.2f} s after kill -9 of their host")
    assert took < BACK
    assert not other.news()
    assert all([report.__class__ for report in one.news()] == [d.Offline, d.Online] for one in lost)
    assert hosts.exits.count("killed") == 1
    assert other.session.worker in {one.session.worker for one in lost}, "spread over what has room"


async def test_a_host_that_stops_answering_is_replaced(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_process, "HEARTBEAT_INTERVAL", 0.3)
    monkeypatch.setattr(neonize_process, "HEARTBEAT_TIMEOUT", 3.0)
    hosts.restart()
    members = await hosts.link_many(3)
    os.kill(members[0].session.pid, signal.SIGSTOP)
    await until(lambda: all(one.back() for one in members))
    assert hosts.exits.count("unresponsive") == 1


async def test_the_one_that_panics_the_library_is_found_and_stopped(hosts: Hosts) -> None:
    """413 makes the Go side panic at each login."""
    members = await hosts.link_many(8)
    guilty, *innocent = members
    for one in members:
        one.forget()
    hosts.whatsapp.refuse(guilty.phone, 413)
    hosts.whatsapp.drop(guilty.phone)
    await until(lambda: any(isinstance(one, d.SessionCrashes) for one in guilty.news()), within=2 * LOAD)
    await until(lambda: all(one.back() for one in innocent))
    gaps = [sum(isinstance(report, d.Offline) for report in one.news()) for one in innocent]
    assert max(gaps) <= 3
    assert all({type(report) for report in one.news()} == {d.Offline, d.Online} for one in innocent)
    deaths = hosts.exits.count("panicked")
    assert deaths <= 6
    await asyncio.sleep(2)
    assert hosts.exits.count("panicked") == deaths, "it is not started any more"
    assert guilty.account.device_key, "its keys are kept"
    await guilty.session.stop()

    reports = ReportRecorder()
    await hosts.driver.start(hosts.spec("link-00"), reports)  # as a person may ask for it
    await reports.next(d.SessionCrashes, within=LOAD)
    assert all(one.back() and len(one.news()) == 2 * count for one, count in zip(innocent, gaps, strict=True))

    hosts.whatsapp.accept(guilty.phone)
    healed = ReportRecorder()
    await hosts.driver.start(hosts.spec("link-00"), healed)
    await healed.next(d.Online, within=LOAD)


async def test_logging_out_one_of_many_and_pairing_it_anew(hosts: Hosts) -> None:
    members = await hosts.link_many(4)
    gone_one, *others = members
    await gone_one.session.logout()
    assert gone_one.account.device_key == b""
    assert sorted(path.name for path in hosts.spec().store.parent.glob("*.db")) == [
        "link-01.db",
        "link-02.db",
        "link-03.db",
    ]
    again = await hosts.link(0)
    assert again.session.worker == others[0].session.worker
    assert all(await asyncio.gather(*(one.session.alive() for one in (again, *others))))
    assert not any(one.news() for one in others)


async def test_what_happens_to_one_happens_to_no_other(hosts: Hosts) -> None:
    members = await hosts.link_many(8)
    whatsapp, *_, last = hosts.whatsapp, *members
    expected: dict[int, d.Report] = {}
    refusals: tuple[tuple[Member, int, dict[str, str], d.Report], ...] = (
        (members[0], 402, {"code": "101", "expire": "60"}, d.TemporaryBan(101, 60.0)),
        (members[1], 401, {}, d.LoggedOutByPhone("401")),
        (members[2], 403, {}, d.LoggedOutByPhone("403")),
        (members[3], 405, {}, d.Outdated()),
    )
    for member, reason, more, report in refusals:
        whatsapp.refuse(member.phone, reason, **more)
        whatsapp.drop(member.phone)
        expected[members.index(member)] = report
    whatsapp.replace(members[4].phone)
    expected[4] = d.StreamReplaced()
    whatsapp.refuse(members[5].phone, 503)
    whatsapp.drop(members[5].phone)
    whatsapp.stream_error(members[6].phone, "515")
    await until(lambda: all(report in members[number].news() for number, report in expected.items()))
    await until(lambda: d.Offline() in members[5].news())
    whatsapp.accept(members[5].phone)
    await until(members[5].back)
    await until(lambda: members[6].account.logins == 2)
    await until(lambda: hosts.workers.get(str(last.session.worker)) == 3)
    assert not last.news(), "the one to which nothing happened"
    assert await last.session.alive() is True
    assert set(hosts.exits) == {"stopped"}


async def test_a_session_that_cannot_be_ended_has_its_host_emptied(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library holds its lock while it dials, for minutes in a black hole; the others are moved out, then."""
    monkeypatch.setattr(driver_session, "STOP_TIMEOUT", 1.0)
    members = await hosts.link_many(3)
    stuck, *others = members
    hosts.whatsapp.fail(Stage.PROXY, How.HANG, times=1)
    hosts.whatsapp.drop(stuck.phone)
    await until(lambda: hosts.whatsapp.troubles.met)
    host = stuck.session.pid
    await asyncio.wait_for(stuck.session.stop(), 15)
    await gone(host)
    await until(lambda: all(one.back() for one in others))
    lock = KeyLock.take(stuck.session.store)
    assert lock is not None, "its key file is free"
    with lock:
        pass


async def test_a_host_over_its_memory_limit_is_emptied_in_order(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "WATCH_INTERVAL", 0.2)
    hosts.restart()
    members = await hosts.link_many(6)
    fleet = hosts.driver._fleet
    (worker,) = fleet.workers
    host = members[0].session.pid
    worker.process.memory = 10**12
    moved = await until(lambda: all(one.back() for one in members))
    print(f"\n6 sessions moved in {moved:.2f} s")
    await gone(host)
    await until(lambda: "memory" in hosts.exits)
    assert all([type(report) for report in one.news()] == [d.Offline, d.Online] for one in members)


async def test_a_host_that_grows_over_its_limit_is_emptied(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truly: somebody sends it messages of eight megabytes, one after the other."""
    monkeypatch.setattr(upkeep, "WATCH_INTERVAL", 0.1)
    monkeypatch.setattr(neonize_process, "HEARTBEAT_INTERVAL", 0.1)
    monkeypatch.setattr(shared_worker, "SETTLED", 4.0)
    monkeypatch.setattr(shared_worker, "MOVE_LIMIT", LOAD)
    hosts.restart()
    members = await hosts.link_many(6)
    target, *others = members
    fleet = hosts.driver._fleet
    (worker,) = (one for one in fleet.workers if one.process.name == target.session.worker)
    await until(lambda: worker.over_memory(0) and asyncio.get_running_loop().time() - worker.born > 4)
    assert fleet._watch is not None
    fleet._watch.cancel()
    fleet._watch = asyncio.create_task(upkeep.watch(fleet, (worker.process.memory or 0) + 10 * MEGABYTE))
    group, apart = Group(1, known=False), []

    async def send() -> None:
        while True:
            hosts.whatsapp.deliver(target.phone, group.large(8 * MEGABYTE))
            await asyncio.sleep(0.05)

    def over() -> bool:
        apart.append(sum(not member.session.online for member in members))
        return "memory" in hosts.exits

    sending = asyncio.create_task(send())
    await until(lambda: sending.done() or worker.draining)
    sending.cancel()
    await until(over)
    await until(lambda: all(one.back() for one in members))
    assert max(apart) <= shared_worker.MOVES_AT_ONCE
    assert hosts.exits.count("memory") == 1
    assert all([type(report) for report in one.news()] == [d.Offline, d.Online] for one in others)


async def test_a_host_that_is_not_needed_is_emptied_into_another(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "WATCH_INTERVAL", 0.1)
    monkeypatch.setattr(upkeep, "MERGE_INTERVAL", 0.1)
    monkeypatch.setattr(upkeep, "SETTLED", 0.0)
    hosts.restart(sessions_per_worker=4)
    members = await hosts.link_many(6)
    assert sorted(hosts.workers.values()) == [2, 4]
    full = [one for one in members if hosts.workers[str(one.session.worker)] == 4]
    for one in full[:3]:
        await one.session.logout()
    moved, stayed = full[3], [one for one in members if one not in full]
    await until(moved.back)
    assert hosts.workers == {stayed[0].session.worker: 3}
    assert [type(report) for report in moved.news()] == [d.Offline, d.Online]
    assert not any(one.news() for one in stayed)
    await until(lambda: len(hosts.driver.workers()) == 1)
    assert set(hosts.exits) == {"stopped"}


@pytest.mark.waits
@pytest.mark.timeout(240)
async def test_a_network_that_falls_silent_for_one(hosts: Hosts) -> None:
    silent, *others = await hosts.link_many(3)
    hosts.whatsapp.silence(silent.phone)
    await until(lambda: silent.news() == [d.KeepAliveLost()], within=60 + LOAD)
    hosts.whatsapp.silence(silent.phone, on=False)
    await until(lambda: silent.news() == [d.KeepAliveLost(), d.KeepAliveRestored()], within=60 + LOAD)
    assert not any(one.news() for one in others)
    assert await asyncio.gather(*(one.session.alive() for one in (silent, *others))) == [True] * 3
    assert set(hosts.exits) == {"stopped"}


async def test_key_files_are_never_open_in_two_processes(hosts: Hosts) -> None:
    """Asserted by the lock itself: whoever has a session has it, and a second process is refused."""
    members = await hosts.link_many(2)
    for member in members:
        assert KeyLock.take(member.session.store) is None
    other = hosts.make()
    reports = ReportRecorder()
    try:
        await other.start(hosts.spec("link-00"), reports)
        refused = await reports.next(d.Unreachable, within=LOAD)
        assert refused.stage is d.ConnectStage.UNKNOWN
        assert members[0].account.logins == 1, "it did not come as far as WhatsApp"
    finally:
        await other.close()


@pytest.mark.alone
async def test_thirty_two_sessions_come_back_after_a_kill_and_stop_in_time(hosts: Hosts) -> None:
    members = await hosts.link_many(32)
    assert len(hosts.workers) == 1
    os.kill(members[0].session.pid, signal.SIGKILL)
    took = await until(lambda: all(one.back() for one in members))
    pids = {member.session.pid for member in members}
    started = time.monotonic()
    await hosts.driver.close()
    stopped = time.monotonic() - started
    print(f"\n32 sessions: back {took:.2f} s after kill -9 of their host, stopped in {stopped:.2f} s")
    assert took < BACK
    assert stopped < driver_session.STOP_TIMEOUT + 1
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert all(isinstance(one.reports.all[-1], d.Online) for one in members), "a stop is nothing to report"
