"""`/readyz` says what is true: both stores can be written, the restore is under way, nothing is stopping."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import aiohttp
import pytest

from roundtrip.api import health
from roundtrip.api.health import PROBE_BYTES, Readiness, probe_disk
from roundtrip.links.storage import StoreError
from roundtrip.links.store import LinkStore
from tests.support.program import Program, api, running


async def passing() -> None:
    return None


async def test_concurrent_callers_share_one_run() -> None:
    runs = 0
    gate = asyncio.Event()

    async def count() -> None:
        nonlocal runs
        runs += 1
        await gate.wait()

    readiness = Readiness({"outbox": count})
    callers = [asyncio.create_task(readiness.check()) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()  # a prober that hangs up takes nobody's answer away
    gate.set()
    assert all(report.ready for report in await asyncio.gather(*callers[1:]))
    assert runs == 1
    await readiness.check()
    assert runs == 2


async def test_the_gauge_follows_without_probes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(health, "INTERVAL", 0.01)
    results: dict[str, bool] = {}
    failures: list[str] = []

    async def links() -> str | None:
        return failures[0] if failures else None

    readiness = Readiness({"outbox": passing, "links": links}, lambda check, ok: results.update({check: ok}))
    polling = asyncio.create_task(readiness.poll())
    try:
        for reasons, expected in ((["The disk is full."], False), ([], True), (["Again."], False)):
            failures[:] = reasons
            async with asyncio.timeout(5):
                while results.get("links") is not expected:
                    await asyncio.sleep(0.005)
            assert results["outbox"] is True
    finally:
        polling.cancel()
    logged = "".join(capsys.readouterr())
    assert logged.count("ready_changed") == 3  # changes are logged, not looks
    assert "The disk is full." in logged


def test_the_disk_probe_leaves_no_file(tmp_path: Path) -> None:
    assert probe_disk(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert probe_disk(tmp_path / "gone") == "The data directory cannot be written: No such file or directory."
    assert PROBE_BYTES > 4096


async def test_a_links_store_that_cannot_be_written_says_why_and_keeps_off_the_loop(tmp_path: Path) -> None:
    store = LinkStore(tmp_path)
    await store.open()
    try:
        before = (tmp_path / "links.db-wal").stat().st_size
        await store.check()
        assert (tmp_path / "links.db-wal").stat().st_size > before  # it was written, not only asked
        assert store._db is not None
        threads: list[int] = []
        store._db.set_trace_callback(lambda _statement: threads.append(threading.get_ident()))
        await store._run(store._db.execute, "PRAGMA query_only = 1")
        with pytest.raises(StoreError, match="readonly"):
            await store.check()
        assert threads
        assert threading.get_ident() not in threads
    finally:
        await store.close()


async def readiness(program: Program) -> tuple[int, dict[str, dict[str, object]]]:
    async with aiohttp.ClientSession() as session, session.get(f"{program.admin_url}/readyz") as response:
        return response.status, (await response.json())["checks"]


async def test_a_data_directory_that_goes_away_is_not_ready(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with running(folder) as program, api(program) as user:
        assert (await readiness(program))[0] == 200
        assert (await user.metrics())['roundtrip_ready{check="outbox"}'] == 1
        folder.rename(tmp_path / "elsewhere")
        status, checks = await readiness(program)
        assert status == 503
        for name in ("outbox", "links"):
            assert checks[name]["ok"] is False
            assert "No such file or directory" in str(checks[name]["detail"])
        assert checks["restore"]["ok"] is checks["draining"]["ok"] is True
        metrics = await user.metrics()
        assert [
            metrics[f'roundtrip_ready{{check="{name}"}}'] for name in ("outbox", "links", "restore", "draining")
        ] == [
            0,
            0,
            1,
            1,
        ]
        (tmp_path / "elsewhere").rename(folder)
        assert (await readiness(program))[0] == 200


async def test_ready_does_not_wait_for_whatsapp(tmp_path: Path) -> None:
    async with running(tmp_path) as program, api(program) as user:
        await user.link()
        await user.state("qr")
        await user.simulate("scan")
        await user.state("connected")
    # A phone that answers a hundred thousand times slower stands for a WhatsApp that is ill
    async with running(tmp_path, ready=False, simulated_speed=0.00001) as program, api(program) as user:
        async with asyncio.timeout(10):
            while not program.url:
                await asyncio.sleep(0.01)
            while (await readiness(program))[0] != 200:
                await asyncio.sleep(0.01)
        assert (await user.metrics())["roundtrip_links_restoring"] == 1
        assert (await user.snapshot())["state"] == "connecting"
