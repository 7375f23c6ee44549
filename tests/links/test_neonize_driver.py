"""The real neonize against the stand-in: every row of WhatsApp's table, and what can happen to a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver, NeonizeSession
from tests.links.reports import Heard
from tests.whatsapp.accounts import Account
from tests.whatsapp.stand_in import StandIn, stand_in

ROOT = Path(__file__).resolve().parents[2]
PHONE = "447441395830"
NUMBER = f"+{PHONE}"
NAME = "Ada Lovelace"


@pytest.fixture
async def whatsapp() -> AsyncIterator[StandIn]:
    async with stand_in() as server:
        yield server


class Bench:
    """A driver, and links that one test starts with it."""

    def __init__(self, folder: Path, whatsapp: StandIn) -> None:
        self.folder = folder
        self.whatsapp = whatsapp
        self.driver = self.make()

    def make(self, proxy: str | None = None, code_life: float = 160.0) -> NeonizeDriver:
        return NeonizeDriver(
            proxy or self.whatsapp.proxy_url,
            worker_command=self.whatsapp.worker_command,
            environment={"PATH": os.environ["PATH"], "ROUNDTRIP_API_KEYS": "hidden", **self.whatsapp.environment},
            code_life=code_life,
        )

    def spec(self, name: str = "one", phone_number: str | None = None) -> d.SessionSpec:
        return d.SessionSpec(name, self.folder / "accounts" / f"{name}.db", phone_number)

    async def linked(self, name: str = "one", phone: str = PHONE) -> tuple[NeonizeSession, Heard, Account]:
        """A session that has paired and is online."""
        heard = Heard()
        session = await self.driver.start(self.spec(name), heard)
        code = await heard.next(d.QrShown)
        account = await self.whatsapp.scan(code.qr, phone, NAME)
        await heard.next(d.Online)
        return session, heard, account


@pytest.fixture
async def bench(tmp_path: Path, whatsapp: StandIn) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, whatsapp)
    try:
        yield bench
    finally:
        await bench.driver.close()


async def gone(pid: int, within: float = 5.0) -> float:
    """Seconds until there is no such process."""
    started = time.monotonic()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - started < within, "the worker is still there"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


# linking


async def test_from_qr_to_connected_with_number_and_name(bench: Bench) -> None:
    heard = Heard()
    session = await bench.driver.start(bench.spec(), heard)
    code = await heard.next(d.QrShown)
    assert (code.index, code.total, code.ttl) == (1, 6, 60.0)
    await bench.whatsapp.scan(code.qr, PHONE, NAME)
    assert await heard.next(d.PairSucceeded) == d.PairSucceeded(NUMBER)
    assert await heard.next(d.Online) == d.Online(NUMBER, NAME)
    assert heard.names == ["QrShown", "PairSucceeded", "Online"]
    assert await session.alive() is True


async def test_the_name_of_a_business_comes_with_the_pairing(bench: Bench) -> None:
    bench.whatsapp.account(PHONE, "Analytical Engines").business = True
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    code = await heard.next(d.QrShown)
    await bench.whatsapp.scan(code.qr, PHONE)
    assert await heard.next(d.Online) == d.Online(NUMBER, "Analytical Engines")


async def test_an_account_whose_name_does_not_come_is_online_all_the_same(bench: Bench) -> None:
    account = bench.whatsapp.account(PHONE, "")
    account.business = True
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    code = await heard.next(d.QrShown)
    await bench.whatsapp.scan(code.qr, PHONE)
    assert await heard.next(d.Online, within=6) == d.Online(NUMBER, "")


async def test_a_paired_account_comes_back_without_a_code(bench: Bench) -> None:
    session, _, account = await bench.linked()
    await session.stop()
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    assert await heard.next(d.Online) == d.Online(NUMBER, NAME)
    assert heard.names == ["Online"]
    assert account.logins == 2


async def test_linking_by_a_code_typed_into_the_phone(bench: Bench) -> None:
    heard = Heard()
    await bench.driver.start(bench.spec(phone_number=NUMBER), heard)
    shown = await heard.next(d.PairingCodeShown)
    assert len(shown.code.replace("-", "")) == 8
    assert 150 < shown.ttl <= 160
    bench.whatsapp.enter_code(shown.code, PHONE, NAME)
    assert await heard.next(d.Online) == d.Online(NUMBER, NAME)
    assert heard.names == ["PairingCodeShown", "PairSucceeded", "Online"]


async def test_codes_are_used_up_after_their_life(bench: Bench) -> None:
    heard = Heard()
    bench.driver = bench.make(code_life=0.5)
    session = await bench.driver.start(bench.spec(), heard)
    await heard.next(d.QrShown)
    await heard.next(d.CodesUsedUp)
    await gone(session.pid)
    assert heard.names == ["QrShown", "CodesUsedUp"]


async def test_a_phone_whose_signature_is_wrong_does_not_link(bench: Bench) -> None:
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    code = await heard.next(d.QrShown)
    ref, noise, identity, _secret, *rest = code.qr.split(",")
    forged = ",".join([ref, noise, identity, "A" * 43 + "=", *rest])
    pairing = asyncio.create_task(bench.whatsapp.scan(forged, PHONE, NAME))
    assert await heard.next(d.ConnectFailed) == d.ConnectFailed("pair_error")
    pairing.cancel()
    await asyncio.wait([pairing])


# what happens to a connection


async def test_a_dropped_connection_comes_back(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    bench.whatsapp.drop(PHONE)
    await heard.next(d.Offline)
    assert await heard.next(d.Online) == d.Online(NUMBER, NAME)
    assert await session.alive() is True


async def test_a_logout_on_the_phone(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    bench.whatsapp.logout_from_phone(PHONE)
    assert await heard.next(d.LoggedOutByPhone) == d.LoggedOutByPhone("401")
    await gone(session.pid)
    assert heard.names[-1] == "LoggedOutByPhone", "the end of the worker is no news of its own"


@pytest.mark.parametrize("reason", [401, 403, 406])
async def test_a_login_refused_because_the_device_is_gone(bench: Bench, reason: int) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.refuse(PHONE, reason)
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    assert await heard.next(d.LoggedOutByPhone) == d.LoggedOutByPhone(str(reason))


async def test_the_same_keys_elsewhere(bench: Bench) -> None:
    session, heard, _ = await bench.linked()
    bench.whatsapp.replace(PHONE)
    await heard.next(d.StreamReplaced)
    await gone(session.pid)


async def refused(bench: Bench, reason: int | str, **more: str) -> Heard:
    """A session whose connection drops and whose next login is refused."""
    _, heard, _ = await bench.linked()
    bench.whatsapp.refuse(PHONE, reason, **more)
    bench.whatsapp.drop(PHONE)
    return heard


async def test_a_temporary_ban_with_its_end(bench: Bench) -> None:
    heard = await refused(bench, 402, code="101", expire="3600")
    assert await heard.next(d.TemporaryBan) == d.TemporaryBan(101, 3600.0)


async def test_a_library_that_is_too_old(bench: Bench) -> None:
    heard = await refused(bench, 405)
    await heard.next(d.Outdated)


async def test_a_refusal_with_a_known_reason(bench: Bench) -> None:
    heard = await refused(bench, 409)
    assert await heard.next(d.ConnectFailed) == d.ConnectFailed("409")


async def test_a_refusal_with_an_unknown_reason(bench: Bench) -> None:
    heard = await refused(bench, 499)
    assert await heard.next(d.ConnectFailed) == d.ConnectFailed("499")


@pytest.mark.parametrize("reason", [409, 499])
async def test_a_first_login_that_is_refused(bench: Bench, reason: int) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.refuse(PHONE, reason)
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    assert await heard.next(d.ConnectFailed) == d.ConnectFailed(str(reason))


async def test_a_server_that_is_unwell_is_tried_again(bench: Bench) -> None:
    session, _, _ = await bench.linked()
    await session.stop()
    bench.whatsapp.refuse(PHONE, 503)
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    await heard.next(d.Offline)
    bench.whatsapp.accept(PHONE)
    assert await heard.next(d.Online) == d.Online(NUMBER, NAME)


async def test_a_store_that_cannot_be_read(bench: Bench) -> None:
    store = bench.spec().store
    store.parent.mkdir()
    store.write_bytes(b"no database" * 500)
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    assert await heard.next(d.ConnectFailed) == d.ConnectFailed("store_unreadable")


async def test_a_stream_error_of_no_known_kind(bench: Bench) -> None:
    _, heard, _ = await bench.linked()
    bench.whatsapp.stream_error(PHONE, "599")
    assert await heard.next(d.StreamFailed) == d.StreamFailed("599")
    await heard.next(d.Online)


async def test_nobody_answers_at_the_address(bench: Bench) -> None:
    await bench.whatsapp.stop()
    heard = Heard()
    session = await bench.driver.start(bench.spec(), heard)
    found = await heard.next(d.Unreachable)
    assert found.message == "the dial failed: connection refused"
    await gone(session.pid)
    assert heard.names == ["Unreachable"]


async def test_a_connection_lost_before_a_phone_paired(bench: Bench) -> None:
    heard = Heard()
    await bench.driver.start(bench.spec(), heard)
    await heard.next(d.QrShown)
    for line in bench.whatsapp.lines:
        line.channel.abort()
    await heard.next(d.Unreachable)


@pytest.mark.slow
@pytest.mark.waits
async def test_pings_that_go_unanswered(bench: Bench) -> None:
    _, heard, _ = await bench.linked()
    bench.whatsapp.silence(PHONE)
    await heard.next(d.KeepAliveLost, within=60)
    bench.whatsapp.silence(PHONE, on=False)
    await heard.next(d.KeepAliveRestored, within=60)


# ending a session


async def test_logging_out_removes_the_device_and_the_store(bench: Bench) -> None:
    session, heard, account = await bench.linked()
    store = bench.spec().store
    assert store.stat().st_mode & 0o777 == 0o600
    assert store.parent.stat().st_mode & 0o777 == 0o700
    await session.logout()
    assert account.device_key == b"", "WhatsApp was told"
    assert list(store.parent.iterdir()) == []
    assert heard.names[-1] == "Online", "reports stop with the session"
    await gone(session.pid)


async def test_logging_out_before_anybody_scanned(bench: Bench) -> None:
    heard = Heard()
    session = await bench.driver.start(bench.spec(), heard)
    await heard.next(d.QrShown)
    await asyncio.wait_for(session.logout(), 5)
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_stopping_keeps_the_keys(bench: Bench) -> None:
    session, heard, account = await bench.linked()
    started = time.monotonic()
    await session.stop()
    assert time.monotonic() - started < 3
    assert account.device_key
    with sqlite3.connect(bench.spec().store) as db:
        assert db.execute("SELECT count(*) FROM whatsmeow_device").fetchone() == (1,)
    db.close()
    assert heard.names[-1] == "Online"
    await session.stop()  # and once more does no harm
    assert await session.alive() is None


async def test_a_folder_whose_name_means_something_in_a_uri(bench: Bench) -> None:
    bench.folder = bench.folder / "what?mode=memory&x=%41#y"
    session, _, _ = await bench.linked()
    assert bench.spec().store.is_file()
    await session.logout()
    assert list(bench.spec().store.parent.iterdir()) == []


async def test_stopping_before_anybody_scanned(bench: Bench) -> None:
    heard = Heard()
    session = await bench.driver.start(bench.spec(), heard)
    await heard.next(d.QrShown)
    await asyncio.wait_for(session.stop(), 3)
    assert heard.names == ["QrShown"]


async def test_stopping_one_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roundtrip.drivers.neonize.driver.STOP_DEADLINE", 0.3)
    monkeypatch.setattr("roundtrip.drivers.neonize.driver.ALIVE_DEADLINE", 0.3)
    session, heard, _ = await bench.linked()
    os.kill(session.pid, signal.SIGSTOP)
    assert await session.alive() is None
    await asyncio.wait_for(session.stop(), 3)
    await gone(session.pid)
    assert heard.names[-1] == "Online"


# workers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_that_dies_is_noticed_within_a_second(bench: Bench, number: signal.Signals) -> None:
    session, heard, _ = await bench.linked()
    os.kill(session.pid, number)
    assert (await heard.next(d.WorkerDied, within=1.0)).exit_status in (-number, 2)  # Go answers SIGSEGV with status 2
    assert await session.alive() is None


def descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


async def test_a_worker_takes_nothing_along_that_it_does_not_need(bench: Bench) -> None:
    secret = os.open(bench.folder, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        session, _, _ = await bench.linked()
        worker = psutil.Process(session.pid)
        added = {"COVERAGE_PROCESS_CONFIG"}  # by the test's own command, where coverage measures
        own = {"PATH", "SSL_CERT_FILE", "LC_CTYPE", "MALLOC_ARENA_MAX", "GOGC", "GOMEMLIMIT"}
        assert set(worker.environ()) - added <= own
        assert str(bench.folder) not in {str(link.readlink()) for link in descriptors(session.pid)}
        assert worker.nice() > psutil.Process().nice()
    finally:
        os.close(secret)


PARENT = """
import asyncio, sys
from pathlib import Path
from roundtrip.drivers import base as d
from roundtrip.drivers.neonize.driver import NeonizeDriver
async def main():
    driver = NeonizeDriver(sys.argv[1], worker_command=sys.argv[3:])
    spec = d.SessionSpec("one", Path(sys.argv[2]), None)
    session = await driver.start(spec, lambda report: print(type(report).__name__, flush=True))
    print(session.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_worker_does_not_outlive_its_parent(bench: Bench) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-c",
            PARENT,
            bench.whatsapp.proxy_url,
            str(bench.folder / "x.db"),
            *bench.whatsapp.worker_command,
        ),
        stdout=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'backend'}",
            **bench.whatsapp.environment,
        },
    )
    assert parent.stdout is not None
    try:
        said: list[str] = []
        async with asyncio.timeout(20):
            while "QrShown" not in said:
                said.append((await parent.stdout.readline()).decode().strip())
        pid = next(int(line) for line in said if line.isdigit())
        assert psutil.pid_exists(pid)
        parent.kill()
        assert await gone(pid) < 1.0
    finally:
        if parent.returncode is None:
            parent.kill()
        await parent.wait()


def fake_worker(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys, time; sys.stdin.readline()\n{script}")


@pytest.mark.parametrize(
    "script",
    [
        "while True: print('panic: nonsense', flush=True)",
        "while True: print('x' * 200000, flush=True)",
        'while True: print(\'{"type": "Offline"}\', flush=True)',
    ],
    ids=["garbage", "endless lines", "a flood"],
)
async def test_a_worker_that_talks_nonsense_is_ended(tmp_path: Path, script: str) -> None:
    heard = Heard()
    driver = NeonizeDriver(worker_command=fake_worker(script))
    session = await driver.start(d.SessionSpec("x", tmp_path / "x", None), heard)
    assert await heard.next(d.WorkerDied) == d.WorkerDied(-signal.SIGKILL)
    await gone(session.pid)
    await driver.close()


async def test_garbage_among_reports_does_not_end_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roundtrip.drivers.neonize.driver.STOP_DEADLINE", 0.3)
    heard = Heard()
    driver = NeonizeDriver(
        worker_command=fake_worker("""print('?'); print('{"type": "Offline"}', flush=True); time.sleep(30)""")
    )
    await driver.start(d.SessionSpec("x", tmp_path / "x", None), heard)
    await heard.next(d.Offline)
    await driver.close()
    assert heard.names == ["Offline"]


async def test_what_a_worker_prints_is_never_logged(
    bench: Bench, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    session, heard, _ = await bench.linked()
    await session.stop()
    out, err = capfd.readouterr()
    everything = out + err + caplog.text
    code = next(report.qr for report in heard.all if isinstance(report, d.QrShown))
    for secret in (PHONE, NAME, code, *code.split(",")[:4]):
        assert secret not in everything


async def test_no_worker_no_session(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        await NeonizeDriver(worker_command=("/nowhere/python",)).start(
            d.SessionSpec("x", tmp_path / "x", None), Heard()
        )


async def test_closing_the_driver_ends_every_worker(bench: Bench) -> None:
    sessions = [await bench.driver.start(bench.spec(name), Heard()) for name in ("one", "two", "three")]
    await asyncio.wait_for(bench.driver.close(), 6)
    for session in sessions:
        await gone(session.pid)
