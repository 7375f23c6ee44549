"""One simulated phone by itself: what it reports to each action, in which order, and at which time."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers import simulated
from roundtrip.drivers.base import SessionSpec
from roundtrip.drivers.simulated import SimulateAction, SimulatedAccount, made_up_account
from roundtrip.drivers.simulated import phone as phone_module
from roundtrip.drivers.simulated.driver import SimulatedDriver
from roundtrip.drivers.simulated.phone import SimulatedSession
from tests.support.links import FakeClock

A = SimulateAction
ADA = SimulatedAccount("+14155550142", "Ada Costa")
ONLINE = d.Online(*ADA)


class Line:
    """A session, its clock, and what it reports at which second."""

    def __init__(self, folder: Path, *, linked: bool = False, phone: str | None = None, speed: float = 1.0) -> None:
        self.clock = FakeClock()
        self.store = folder / "a.db"
        if linked:
            simulated.write_account(self.store, ADA)
        self.reports: list[d.Report] = []
        self.at: list[float] = []
        self.spec = SessionSpec("link-a", self.store, phone, None, "seed")
        self.driver = SimulatedDriver(speed, None, self.clock)

    def record(self, report: d.Report) -> None:
        self.reports.append(report)
        self.at.append(round(self.clock.monotonic() - 1_800_000_000.0, 3))

    async def start(self, then: float = 1.0) -> SimulatedSession:
        session = await self.driver.start(self.spec, self.record)
        await self.clock.advance(then)
        return session

    def new(self) -> list[d.Report]:
        reports, self.reports, self.at = self.reports, [], []
        return reports


@pytest.fixture
async def line(tmp_path: Path) -> Line:
    """A linked phone that is online."""
    line = Line(tmp_path, linked=True)
    await line.start()
    assert line.new() == [ONLINE]
    return line


async def test_an_unlinked_phone_shows_six_codes_on_whatsapps_times(tmp_path: Path) -> None:
    line = Line(tmp_path)
    await line.start(1000.0)
    *codes, end = line.reports
    shown = [(c.index, c.total, c.ttl) for c in codes if isinstance(c, d.QrShown)]
    assert shown == [(n, 6, 60.0 if n == 1 else 20.0) for n in range(1, 7)]
    assert end == d.CodesUsedUp()
    assert line.at == [0.3, 60.3, 80.3, 100.3, 120.3, 140.3, 160.3]


async def test_a_pairing_code_lasts_as_long_as_all_codes(tmp_path: Path) -> None:
    line = Line(tmp_path, phone="+4915123456789")
    await line.start(1000.0)
    code, end = line.reports
    assert isinstance(code, d.PairingCodeShown)
    assert (code.ttl, end, line.at) == (160.0, d.CodesUsedUp(), [0.3, 160.3])


async def test_speed_divides_reported_and_waited_times(tmp_path: Path) -> None:
    line = Line(tmp_path, phone="+4915123456789", speed=10.0)
    await line.start(100.0)
    assert line.at == [0.03, 16.03]
    assert isinstance(line.reports[0], d.PairingCodeShown)
    assert line.reports[0].ttl == 16.0


@pytest.mark.parametrize("phone", [None, "+4915123456789"])
async def test_a_scan_pairs_then_connects_and_ends_the_codes(tmp_path: Path, phone: str | None) -> None:
    line = Line(tmp_path, phone=phone)
    session = await line.start()
    line.new()
    assert session.perform(A.SCAN)
    await line.clock.advance(1000.0)
    made_up = made_up_account("seed")
    whose = SimulatedAccount(phone or made_up.phone_number, made_up.display_name)
    assert line.reports == [d.PairSucceeded(whose.phone_number), d.Online(*whose)]
    assert line.at == [1.0, 1.6]
    assert await session.alive() is True
    assert simulated.read_account(line.store) == whose
    assert stat.S_IMODE(line.store.stat().st_mode) == 0o600
    assert not session.perform(A.SCAN), "there is no code on the screen"


async def test_no_scan_before_there_is_a_code(tmp_path: Path) -> None:
    line = Line(tmp_path)
    session = await line.start(0.2)
    assert not session.perform(A.SCAN)
    assert await session.alive() is False
    await line.clock.advance(0.2)
    assert session.perform(A.SCAN)


async def test_a_linked_phone_dials_and_is_in(tmp_path: Path) -> None:
    line = Line(tmp_path, linked=True)
    session = await line.start(0.4)
    assert (line.reports, await session.alive()) == ([], False)
    await line.clock.advance(100.0)
    assert (line.reports, line.at, await session.alive()) == ([ONLINE], [0.5], True)


@pytest.mark.parametrize(
    ("action", "reports", "online"),
    [
        (A.DISCONNECT, [d.Offline()], False),
        (A.LOGOUT, [d.LoggedOutByPhone("401")], False),
        (A.REPLACE, [d.StreamReplaced()], False),
        (A.BAN, [d.TemporaryBan(101, 3600.0)], False),
        (A.DEGRADE, [d.KeepAliveLost()], True),
        (A.RESTORE, [d.KeepAliveRestored()], True),
        (A.OUTDATED, [d.Outdated()], False),
        (A.CRASH, [d.WorkerDied(-9)], False),
        (A.UNREACHABLE, [d.Offline(), d.Unreachable("simulated: no route to WhatsApp")], False),
        (A.CONNECT_FAILURE, [d.ConnectFailed("499")], False),
        (A.STREAM_ERROR, [d.StreamFailed("599")], True),
        (A.DIE_SILENTLY, [], False),
        (A.HANG, [], None),
    ],
)
async def test_what_a_linked_phone_reports(
    line: Line, action: SimulateAction, reports: list[d.Report], online: bool | None
) -> None:
    assert await line.driver.simulate("link-a", action)
    assert line.new() == reports
    session = line.driver._sessions["link-a"]
    assert await session.alive() is online
    await line.clock.advance(100.0)
    assert line.new() == [], "and nothing of its own accord after it"
    assert line.store.exists() is (action is not A.LOGOUT)


@pytest.mark.parametrize("action", [A.DISCONNECT, A.REPLACE, A.DEGRADE, A.RESTORE, A.FLAP, A.DIE_SILENTLY])
async def test_what_needs_a_connection_is_refused_without_one(line: Line, action: SimulateAction) -> None:
    await line.driver.simulate("link-a", A.DISCONNECT)
    line.new()
    assert not await line.driver.simulate("link-a", action)
    assert line.new() == []


@pytest.mark.parametrize("action", [A.LOGOUT, A.RECONNECT])
async def test_what_needs_an_account_is_refused_without_one(tmp_path: Path, action: SimulateAction) -> None:
    line = Line(tmp_path)
    session = await line.start()
    line.new()
    assert not session.perform(action)
    assert line.new() == []


@pytest.mark.parametrize("action", [A.CRASH, A.HANG])
async def test_a_crashed_or_hung_session_performs_no_action(line: Line, action: SimulateAction) -> None:
    await line.driver.simulate("link-a", action)
    line.new()
    done = {act: line.driver._sessions["link-a"].perform(act) for act in SimulateAction}
    assert not any(done.values())
    assert line.new() == []


@pytest.mark.parametrize("action", [A.HANG, A.CRASH, A.EXPIRE, A.UNREACHABLE])
async def test_no_code_comes_after_that(tmp_path: Path, action: SimulateAction) -> None:
    line = Line(tmp_path)
    session = await line.start()
    line.new()
    assert session.perform(action)
    reports = line.new()
    assert d.Offline() not in reports, "it was never online"
    await line.clock.advance(1000.0)
    assert line.new() == []


async def test_flapping_swings_sixteen_times_a_second_apart_and_ends_online(line: Line) -> None:
    await line.driver.simulate("link-a", A.FLAP)
    await line.clock.advance(100.0)
    assert line.reports == [d.Offline(), ONLINE] * 8
    assert line.at == [1.0 + n for n in range(16)]
    assert await line.driver._sessions["link-a"].alive() is True


async def test_a_network_that_is_gone_stays_gone_for_the_next_session_until_it_is_back(line: Line) -> None:
    await line.driver.simulate("link-a", A.UNREACHABLE)
    line.new()
    session = await line.start(100.0)
    assert line.reports == [d.Unreachable("simulated: no route to WhatsApp")]
    assert line.at == [1.5]
    assert await session.alive() is False
    line.new()
    assert await line.driver.simulate("link-a", A.RECONNECT)
    assert line.new() == [], "the next try gets through, not this one"
    await line.start()
    assert line.new() == [ONLINE]
    assert not await line.driver.simulate("link-a", A.RECONNECT), "it is online"


async def test_only_the_link_that_was_cut_off_is(line: Line) -> None:
    await line.driver.simulate("another", A.UNREACHABLE)
    await line.start()
    assert line.new() == [ONLINE]
    assert not await line.driver.simulate("nobody", A.DISCONNECT)


async def test_a_reconnect_is_reported(line: Line) -> None:
    await line.driver.simulate("link-a", A.DISCONNECT)
    line.new()
    assert await line.driver.simulate("link-a", A.RECONNECT)
    assert line.new() == [ONLINE]


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("end", ["stop", "logout", "close"])
async def test_an_ended_session_reports_nothing_more(tmp_path: Path, linked: bool, end: str) -> None:
    line = Line(tmp_path, linked=linked)
    session = await line.start(0.1)  # before its first word
    await (line.driver.close() if end == "close" else getattr(session, end)())
    await line.clock.advance(1000.0)
    assert line.reports == []
    assert await session.alive() is False
    assert not any(session.perform(action) for action in SimulateAction)
    assert line.store.exists() is (linked and end != "logout")
    assert not [call for _, _, call in line.clock._calls if call.callback is not None]


async def test_an_online_session_that_is_stopped_is_offline(line: Line) -> None:
    session = line.driver._sessions["link-a"]
    await session.stop()
    assert await session.alive() is False
    assert line.new() == []


async def test_a_driver_that_is_closed_scans_nothing(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.driver = SimulatedDriver(1.0, 5.0, line.clock)
    await line.start()
    await line.driver.close()
    line.new()
    await line.clock.advance(100.0)
    assert line.new() == []


@pytest.mark.parametrize(("scan_after", "speed", "at"), [(5.0, 1.0, 5.0), (0.0, 1.0, 0.33), (0.0, 10.0, 0.033)])
async def test_it_scans_by_itself_but_not_before_a_code(
    tmp_path: Path, scan_after: float, speed: float, at: float
) -> None:
    line = Line(tmp_path)
    line.driver = SimulatedDriver(speed, scan_after, line.clock)
    await line.start(50.0)
    assert [type(report) for report in line.reports] == [d.QrShown, d.PairSucceeded, d.Online]
    assert line.at[1] == pytest.approx(at, abs=0.001)


async def test_keys_that_cannot_be_kept_cost_the_pairing(tmp_path: Path) -> None:
    line = Line(tmp_path)
    session = await line.start()
    line.new()
    line.store.mkdir()  # no file can be written here
    assert not session.perform(A.SCAN)
    assert line.new() == [d.WorkerDied(1)]
    assert await session.alive() is False
    await line.clock.advance(1000.0)
    assert line.new() == []


def test_the_times_are_whatsmeows() -> None:
    assert (phone_module.FIRST_CODE_TTL, phone_module.LATER_CODE_TTL, phone_module.CODES) == (60.0, 20.0, 6)
    assert SimulatedDriver().name == "simulated"
