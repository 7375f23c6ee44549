"""The program with `ROUNDTRIP_STORE=postgresql://…`, from outside."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.outbox.postgres.helpers import joined
from tests.support.postgres import Postgres, server, value
from tests.support.program import BACKEND, ROOT, Api, api, environment, running
from tests.support.py_client import py_client

_LOADED = """
import asyncio, sys
from roundtrip.app import Backend
from roundtrip.environment import load

async def main():
    backend = Backend(load())
    await backend.start()
    await backend.stop()
    print(sorted(name for name in sys.modules if any(part in name for part in ("asyncpg", "postgres", "cluster"))))

asyncio.run(main())
"""


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_of_a_shared_store_is_loaded_without_one(tmp_path: Path, database: str, shared: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env=environment(tmp_path, **({"store": database} if shared else {})),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    loaded = done.stdout.strip().splitlines()[-1]
    assert ("asyncpg" in loaded) is shared
    assert (loaded == "[]") is not shared


async def created(user: Api) -> float:
    metrics = await user.metrics()
    return sum(n for name, n in metrics.items() if name.startswith("roundtrip_events_created_total"))


async def test_a_link_and_its_events_are_there_after_a_kill_and_on_another_disk(tmp_path: Path, database: str) -> None:
    """Nothing but the database is needed: the account's keys come back from it, and no scan is asked for."""
    settings: dict[str, Any] = {"store": database, "lease": 2, "simulated_scan_after": 0.1, "simulated_speed": 20}
    async with running(tmp_path / "one", **settings) as program, api(program) as user:
        await user.link()
        before = await user.state("connected")
        events = await user.ledger()
        program.kill()
        await program.ended()
    assert await value(database, "SELECT count(*) FROM key_files") == 1
    async with running(tmp_path / "two", **settings) as program, api(program) as user:
        after = await user.state("connected")
        assert after["linkId"] == before["linkId"]
        assert after["phoneNumber"] == before["phoneNumber"]
        again = await user.ledger()
        assert [(event["id"], event["seq"]) for event in again[: len(events)]] == [
            (event["id"], event["seq"]) for event in events
        ]
        assert not {event["type"] for event in again[len(events) :]} & {"whatsapp_qr", "whatsapp_paired"}
        async with asyncio.timeout(10):  # the sums are told by the oldest node, once the killed one is out of the table
            while await created(user) != len(await user.ledger()):
                await asyncio.sleep(0.1)
        await user.call("DELETE", "/api/bots/bot/link")
        program.terminate()
        assert await program.ended() == 0
    assert await value(database, "SELECT count(*) FROM key_files") == 0
    assert await value(database, "SELECT count(*) FROM nodes") == 0  # it gave its lease up
    assert not [path for path in (tmp_path / "two").rglob("*.db") if "outbox" in path.name or "links" in path.name]


async def _ends(data_dir: Path, **settings: object) -> tuple[int | None, str]:
    """Exit status and last line of a program that does not start."""
    program = await asyncio.create_subprocess_exec(
        *BACKEND, cwd=ROOT, env=environment(data_dir, **settings), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(program.communicate(), 20)
    return program.returncode, errors.decode().strip().splitlines()[-1]


async def test_a_live_nodes_name_is_refused_to_another(tmp_path: Path, database: str) -> None:
    async with running(tmp_path / "one", store=database, lease=2, node_id="first"):
        assert await _ends(tmp_path / "two", store=database, lease=2, node_id="first") == (
            2,
            "roundtrip: A node named first is alive: give each node a name of its own (ROUNDTRIP_NODE_ID).",
        )


async def test_a_live_node_of_a_release_that_is_alone_is_waited_for_and_then_refused(
    tmp_path: Path, database: str
) -> None:
    _, lease = await joined(database, "old", 2.0)
    await value(database, "UPDATE nodes SET alone = true")
    holding = asyncio.create_task(lease.hold())
    assert await _ends(tmp_path, store=database, lease=2, node_id="new") == (
        2,
        "roundtrip: The store is in use by the node old of an earlier release, which is alive: end it first.",
    )
    holding.cancel()
    await asyncio.wait((holding,))
    await lease.leave()


async def test_while_the_store_is_away(tmp_path: Path) -> None:
    """Sockets and snapshots stay, commands are refused with a time to come back, and all goes on when it is back."""
    with server() as own:
        settings: dict[str, Any] = {"store": own.url, "lease": 60, "simulated_scan_after": 0.1, "simulated_speed": 20}
        async with running(tmp_path, **settings) as program, api(program) as user:
            await user.link()
            await user.state("connected")
            before = await user.snapshot()
            assert "stale" not in before
            own.stop()
            async with asyncio.timeout(15):
                while (await user.admin("/readyz"))["ready"]:
                    await asyncio.sleep(0.05)
            assert (await user.metrics())["roundtrip_store_up"] == 0
            status, problem = await user.call("PUT", "/api/bots/other/link")
            assert (status, problem["code"]) == (503, "store_unavailable")
            known = await user.snapshot()
            assert known.pop("stale") is True
            assert known == before
            async with py_client(program.url) as page:  # one that comes meanwhile
                await page.io.emit("status")
                await page.until(lambda: len(page.snapshots) == 2)
                assert page.snapshots == [before | {"stale": True}] * 2
                own.start()
                async with asyncio.timeout(20):
                    while not (await user.admin("/readyz"))["ready"]:
                        await asyncio.sleep(0.05)
                await page.until(lambda: len(page.snapshots) > 2)  # told once it is known, and never disconnected
                assert page.snapshots[2] == before
                assert page.io.connected
                assert await user.snapshot() == before
            assert (await user.metrics())["roundtrip_store_up"] == 1
            await user.link("other")
            await user.state("connected", "other")
            kinds = [event["type"] for event in await user.ledger("other")]
            assert kinds[0] == "whatsapp_connecting"
            assert kinds[-1] == "whatsapp_connected"
            assert [event["seq"] for event in await user.ledger("other")] == list(range(1, len(kinds) + 1))


def _refused(tmp_path: Path, **settings: object) -> tuple[int, str]:
    done = subprocess.run(
        [*BACKEND],
        env=environment(tmp_path, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_a_newer_schema_is_refused(tmp_path: Path, postgres: Postgres, database: str) -> None:
    name = database.rpartition("/")[2]
    postgres.query("CREATE TABLE roundtrip_schema (version integer PRIMARY KEY, applied_at timestamptz)", name)
    postgres.query("INSERT INTO roundtrip_schema VALUES (99, now())", name)
    status, line = _refused(tmp_path, store=database)
    assert status == 2
    assert "written by a newer version of this program (schema 99, this one knows" in line


def test_a_store_that_is_not_there_is_one_clear_line_without_the_password(tmp_path: Path, postgres: Postgres) -> None:
    status, line = _refused(tmp_path, store=f"postgresql://me:S3CRET@127.0.0.1:{postgres.port}/no_such_database")
    assert status == 1
    assert "cannot be used" in line
    assert "no_such_database" in line
    assert "S3CRET" not in line


def test_the_store_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_text("mysql://host/database\n")
    status, line = _refused(tmp_path, store_file=path)
    assert status == 2
    assert line.startswith("roundtrip: ROUNDTRIP_STORE_FILE: must be postgresql://")


async def test_an_event_and_the_state_that_it_tells_are_in_one_transaction(tmp_path: Path, database: str) -> None:
    """Every record of the link was written by the transaction that wrote an event."""
    settings: dict[str, Any] = {"store": database, "lease": 2, "simulated_scan_after": 0.1, "simulated_speed": 20}
    async with running(tmp_path, **settings) as program, api(program) as user:
        await value(database, "CREATE TABLE seen (tx xid8 DEFAULT pg_current_xact_id(), what text, state text)")
        await value(
            database,
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen (what, state) "
            "VALUES (TG_TABLE_NAME, to_jsonb(NEW) ->> 'state'); RETURN NEW; END $$",
        )
        for table, on in (("links", "UPDATE OF record"), ("events", "INSERT")):
            await value(database, f"CREATE TRIGGER note AFTER {on} ON {table} FOR EACH ROW EXECUTE FUNCTION note()")
        await user.link()
        await user.state("connected")
        states = await value(
            database,
            "SELECT array_agg(state ORDER BY tx) FROM seen l WHERE what = 'links' "
            "AND EXISTS (SELECT FROM seen e WHERE e.tx = l.tx AND e.what = 'events')",
        )
        assert states == ["connecting", "qr", "paired", "connected"]
        alone = await value(
            database,
            "SELECT array_agg(state) FROM seen l WHERE what = 'links' "
            "AND NOT EXISTS (SELECT FROM seen e WHERE e.tx = l.tx AND e.what = 'events')",
        )
        assert alone == ["qr"]  # with the keys, before it is told: `paired` is true from there on
