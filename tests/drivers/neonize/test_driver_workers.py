"""The supervision of workers: exits, hangs, invalid output, and what a worker inherits."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import process as neonize_process
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.environment import load
from roundtrip.settings import SettingsError
from tests.drivers.neonize.helpers import NAME, PHONE, Bench, gone
from tests.support.reports import ReportRecorder
from tests.whatsapp.troubles import How, Stage

OFFLINE = '{"type": "Reported", "seat": 1, "report": {"type": "Offline"}}'
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_that_crashes_is_noticed_within_a_second_and_replaced(
    bench: Bench, number: signal.Signals
) -> None:
    session, reports, _ = await bench.linked()
    before = session.pid
    os.kill(before, number)
    await reports.next(d.Offline, within=1.0)
    await reports.next(d.Online, within=10.0)
    assert session.pid != before
    assert await session.alive() is True


async def test_a_session_between_two_workers_is_offline_and_not_silent(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    answers: list[bool | None] = []

    async def ask() -> None:
        while True:
            answers.append(await session.alive())
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    os.kill(session.pid, signal.SIGSTOP)  # so that a question waits when the worker dies
    await asyncio.sleep(0.05)
    os.kill(session.pid, signal.SIGKILL)
    await reports.next(d.Online, within=10.0)
    asking.cancel()
    assert set(answers) <= {True, False}, "None says that a worker hangs, which has it killed"


async def test_a_worker_that_crashes_before_its_phone_has_paired_is_reported(bench: Bench) -> None:
    reports = ReportRecorder()
    session = await bench.driver.start(bench.spec(), reports)
    await reports.next(d.QrShown)
    os.kill(session.pid, signal.SIGKILL)
    assert await reports.next(d.WorkerDied) == d.WorkerDied(-signal.SIGKILL)
    assert await session.alive() is None


def descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())


async def test_a_worker_inherits_nothing_that_it_does_not_need(bench: Bench) -> None:
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
from roundtrip.environment import load
from roundtrip.settings import SettingsError
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
        lines: list[str] = []
        async with asyncio.timeout(20):
            while "QrShown" not in lines:
                lines.append((await parent.stdout.readline()).decode().strip())
        pid = next(int(line) for line in lines if line.isdigit())
        assert psutil.pid_exists(pid)
        parent.kill()
        await gone(pid)
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
        f"while True: print({OFFLINE!r}, flush=True)",
    ],
    ids=["garbage", "endless lines", "a flood"],
)
async def test_a_worker_with_invalid_output_is_killed(tmp_path: Path, script: str) -> None:
    reports = ReportRecorder()
    driver = NeonizeDriver(worker_command=fake_worker(script))
    session = await driver.start(d.SessionSpec("x", tmp_path / "x", None), reports)
    assert await reports.next(d.WorkerDied) == d.WorkerDied(-signal.SIGKILL)
    await gone(session.pid)
    await driver.close()


async def test_garbage_among_reports_does_not_end_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roundtrip.drivers.neonize.driver.STOP_TIMEOUT", 0.3)
    reports = ReportRecorder()
    driver = NeonizeDriver(
        worker_command=fake_worker(f"""print('?'); print({OFFLINE!r}, flush=True); time.sleep(30)""")
    )
    await driver.start(d.SessionSpec("x", tmp_path / "x", None), reports)
    await reports.next(d.Offline)
    await driver.close()
    assert reports.names == ["Offline"]


async def test_what_a_worker_prints_is_never_logged(
    bench: Bench, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    session, reports, _ = await bench.linked()
    await session.stop()
    out, err = capfd.readouterr()
    everything = out + err + caplog.text
    code = next(report.qr for report in reports.all if isinstance(report, d.QrShown))
    for secret in (PHONE, NAME, code, *code.split(",")[:4]):
        assert secret not in everything


async def test_no_worker_no_session(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        await NeonizeDriver(worker_command=("/nowhere/python",)).start(
            d.SessionSpec("x", tmp_path / "x", None), ReportRecorder()
        )


async def test_closing_the_driver_ends_every_worker(bench: Bench) -> None:
    sessions = [await bench.driver.start(bench.spec(name), ReportRecorder()) for name in ("one", "two", "three")]
    await asyncio.wait_for(bench.driver.close(), 6)
    for session in sessions:
        await gone(session.pid)


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_process, "HEARTBEAT_INTERVAL", 0.3)
    monkeypatch.setattr(neonize_process, "HEARTBEAT_TIMEOUT", 3.0)


@pytest.mark.usefixtures("quick_watch")
async def test_a_worker_that_hangs_is_killed_and_reported(bench: Bench) -> None:
    session, reports, account = await bench.linked()
    before, logins = session.pid, account.logins
    os.kill(before, signal.SIGSTOP)
    await reports.next(d.Offline, within=15)
    await gone(before)
    await reports.next(d.Online, within=20)
    assert account.logins == logins + 1


@pytest.mark.usefixtures("quick_watch")
async def test_a_worker_that_waits_for_the_network_is_not_ended(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    bench.whatsapp.fail(Stage.PROXY, How.HANG)
    bench.whatsapp.drop(PHONE)
    await reports.next(d.Offline)
    await asyncio.sleep(3)  # the library dials all the while, and holds its lock
    assert reports.names[-1] == "Offline"
    assert await session.alive() is False


@pytest.mark.usefixtures("quick_watch")
async def test_a_parent_that_was_suspended_kills_no_worker(bench: Bench) -> None:
    session, reports, _ = await bench.linked()
    for pause in (3.0, 1.4, 3.0):
        time.sleep(pause)  # noqa: ASYNC251 -- this process' loop stands still, as it does while it is stopped
        await asyncio.sleep(0)
    await asyncio.sleep(2)
    assert reports.names[-1] == "Online"
    assert await session.alive() is True


async def test_a_worker_that_never_sends_anything_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neonize_process, "HEARTBEAT_INTERVAL", 0.2)
    monkeypatch.setattr(neonize_process, "FIRST_HEARTBEAT_TIMEOUT", 0.6)
    reports = ReportRecorder()
    driver = NeonizeDriver(worker_command=(sys.executable, "-c", "import time; time.sleep(60)"))
    await driver.start(d.SessionSpec("x", tmp_path / "x", None), reports)
    assert (await reports.next(d.WorkerDied, within=5)).unresponsive
    await driver.close()


def test_a_hung_worker_is_noticed_within_half_a_minute() -> None:
    assert neonize_process.HEARTBEAT_TIMEOUT + 3 * neonize_process.HEARTBEAT_INTERVAL <= 30


@pytest.mark.parametrize("name", ["", "   ", "two\nlines", "x" * 65])
def test_a_device_name_that_no_list_can_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_AUTH", "trusted")
    monkeypatch.setenv("ROUNDTRIP_DEVICE_NAME", name)
    with pytest.raises(SettingsError, match="ROUNDTRIP_DEVICE_NAME"):
        load()
