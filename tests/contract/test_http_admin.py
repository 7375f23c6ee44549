"""Chapter "HTTP, admin": metrics, health, readiness, what is connected, faults."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.inside import Inside, inside
from tests.support.lives import connect, settled
from tests.support.py_client import py_client

FAULTS = {
    "key_mismatch",
    "stale_cleanup",
    "drop_acks",
    "drop_receipts",
    "early_disconnect",
    "slow_outbox",
    "outbox_down",
    "whatsapp_flap",
    "host_death",
}


async def test_it_is_alive_and_ready(program: Inside) -> None:
    status, _, _ = await program.admin("GET", "/healthz")
    assert status == 200

    async def ready() -> bool:
        return (await program.admin("GET", "/readyz"))[0] == 200

    await settled(ready)
    _, answer, _ = await program.admin("GET", "/readyz")
    assert answer["ready"] is True
    assert all(check["ok"] for check in answer["checks"].values())
    assert {"outbox", "restore", "draining"} <= answer["checks"].keys()


async def test_an_outbox_that_cannot_write_is_not_ready_but_alive(program: Inside) -> None:
    await program.fault("outbox_down")
    async with asyncio.timeout(5):  # an answer may be that of a look which began a moment before
        while (found := await program.admin("GET", "/readyz"))[0] != 503:
            await asyncio.sleep(0.01)
    answer = found[1]
    assert answer["checks"]["outbox"]["ok"] is False
    assert answer["checks"]["restore"]["ok"] is True
    assert (await program.admin("GET", "/healthz"))[0] == 200
    await program.fault("outbox_down", on=False)
    async with asyncio.timeout(5):
        while (await program.admin("GET", "/readyz"))[0] != 200:
            await asyncio.sleep(0.01)


async def test_the_sockets_are_shown_by_key(program: Inside) -> None:
    async with (
        py_client(program.url, "ada", "one") as first,
        py_client(program.url, "ada", "two", transports=["polling"]),
        py_client(program.url, "ben", "one", acks=True),
        py_client(program.url, "ben", "one"),
    ):
        _, shown, _ = await program.admin("GET", "/debug/sockets")
        assert (shown["totals"]["sockets"], shown["totals"]["mappedKeys"], shown["totals"]["users"]) == (4, 3, 2)
        keys = {(key["userId"], key["botId"]): key["sockets"] for key in shown["keys"]}
        assert {key: len(sockets) for key, sockets in keys.items()} == {
            ("ada", "one"): 1,
            ("ada", "two"): 1,
            ("ben", "one"): 2,
        }
        assert keys["ada", "one"][0]["sid"] == first.io.get_sid()
        assert keys["ada", "one"][0]["transport"] == "websocket"
        assert keys["ada", "two"][0]["transport"] == "polling"
        assert sorted(socket["acks"] for socket in keys["ben", "one"]) == [False, True]
        assert all(0 <= socket["age"] < 60 for sockets in keys.values() for socket in sockets)


async def test_the_last_misses_are_shown_with_their_reasons(program: Inside) -> None:
    await program.user().link()
    await program.user().state("qr")
    _, shown, _ = await program.admin("GET", "/debug/sockets")
    assert {(miss["type"], miss["reason"]) for miss in shown["misses"]} == {
        ("whatsapp_connecting", "never_connected"),
        ("whatsapp_qr", "never_connected"),
    }
    assert all(miss["at"] for miss in shown["misses"])


async def test_the_links_are_shown_without_a_phone_number(program: Inside) -> None:
    user = program.user()
    await connect(user)
    number = (await user.snapshot())["phoneNumber"]
    _, shown, _ = await program.admin("GET", "/debug/links")
    (link,) = shown["links"]
    assert (link["userId"], link["botId"], link["state"]) == ("user", "bot", "connected")
    assert number not in str(shown)


async def test_every_named_fault_is_listed_with_what_to_expect(program: Inside) -> None:
    _, listed, _ = await program.admin("GET", "/debug/faults")
    assert {fault["name"] for fault in listed["faults"]} == FAULTS
    for fault in listed["faults"]:
        assert fault["active"] is False
        assert fault["description"].endswith(".")
        assert fault["expect"].endswith(".")


@pytest.mark.parametrize("name", sorted(FAULTS))
async def test_a_fault_is_switched_on_and_off(program: Inside, name: str) -> None:
    parameter = {"early_disconnect": 100, "slow_outbox": 0.01, "whatsapp_flap": 1, "host_death": 1}.get(name)
    await program.fault(name, parameter=parameter)
    _, shown, _ = await program.admin("GET", f"/debug/faults/{name}")
    assert (shown["active"], shown["parameter"]) == (True, parameter)
    assert f'roundtrip_fault_active{{fault="{name}"}} 1.0' in (await program.admin("GET", "/metrics"))[1]
    await program.fault(name, on=False)
    _, shown, _ = await program.admin("GET", f"/debug/faults/{name}")
    assert shown["active"] is False
    assert f'roundtrip_fault_active{{fault="{name}"}} 0.0' in (await program.admin("GET", "/metrics"))[1]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_a_fault_that_is_not_there_is_a_problem(program: Inside, method: str) -> None:
    options: dict[str, Any] = {"json": {}} if method == "PUT" else {}
    status, problem, _ = await program.admin(method, "/debug/faults/no_such_fault", **options)
    assert status == 404
    assert problem["code"]


async def test_with_a_key_only_its_holder_gets_in(tmp_path: Path) -> None:
    key = "k" * 40
    async with inside(tmp_path, admin_key=key) as program:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for path in ("/metrics", "/debug/sockets", "/debug/links", "/debug/faults"):
                assert (await program.admin("GET", path, headers=headers))[0] == 401, path
        status, _, _ = await program.admin("GET", "/debug/sockets", headers={"Authorization": f"Bearer {key}"})
        assert status == 200
        assert (await program.admin("GET", "/healthz"))[0] == 200, "who watches over a process has no key"
