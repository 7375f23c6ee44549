"""Chapter "What becomes of an event": each reason of a miss, each of the five ends, and the balance of all."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.inside import Inside, inside
from tests.support.lives import FIVE, balance, connect, ended, settled, total
from tests.support.program import Api
from tests.support.py_client import py_client


async def reasons(user: Api, bot: str = "bot") -> set[str]:
    return {
        attempt["reason"] for event in await user.ledger(bot) for attempt in event["attempts"] if "reason" in attempt
    }


async def waiting(user: Api, bot: str = "bot") -> None:
    await user.link(bot)
    await user.state("qr", bot)


async def test_nobody_ever_connected(program: Inside) -> None:
    await waiting(program.user())
    assert await reasons(program.user()) == {"never_connected"}


async def test_somebody_left_just_now(program: Inside) -> None:
    async with py_client(program.url):
        pass

    async def gone() -> bool:
        shown = (await program.admin("GET", "/debug/sockets"))[1]
        return shown["totals"]["sockets"] == 0  # type: ignore[no-any-return]  # JSON

    await settled(gone)
    await waiting(program.user())
    assert await reasons(program.user()) == {"just_disconnected"}


async def test_a_key_that_was_built_wrongly(program: Inside) -> None:
    async with py_client(program.url, "user", "user"):  # the bot's id is missing, so the user's stands in its place
        await waiting(program.user())
    assert await reasons(program.user()) == {"key_mismatch"}


async def test_a_page_under_a_bot_that_nobody_linked(program: Inside) -> None:
    async with py_client(program.url, "user", "another"):
        await waiting(program.user())
    assert await reasons(program.user()) == {"key_mismatch"}


async def test_two_linked_bots_and_one_page_are_an_ordinary_day(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url, "user", "open"):
        await waiting(user, "open")
        await waiting(user, "closed")
    assert await reasons(user, "open") == set()
    assert await reasons(user, "closed") == {"other_bot_connected"}
    samples = await user.metrics()
    assert total(samples, "roundtrip_missed_emits_total", reason="other_bot_connected") == 2
    assert total(samples, "roundtrip_missed_emits_total", reason="key_mismatch") == 0


async def test_a_caller_that_takes_the_user_id_for_the_bots_is_a_mismatch_though_the_page_is_linked(
    program: Inside,
) -> None:
    user = program.user()
    async with py_client(program.url, "user", "open"):
        await waiting(user, "open")
        await waiting(user, "user")
    assert await reasons(user, "user") == {"key_mismatch"}


async def test_a_client_that_keeps_its_acks_back(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.1) as program, py_client(program.url, acking=False, acks=True):
        await program.user().link()

        async def tried() -> bool:
            return "ack_timeout" in await reasons(program.user())

        await settled(tried)


async def test_acknowledged(program: Inside) -> None:
    async with py_client(program.url):
        await connect(program.user())
        await ended(program.user(), 4, "acked")


async def test_received_only(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.1, ping_interval=1) as program, py_client(program.url, acking=False):
        await waiting(program.user())
        await ended(program.user(), 2, "received", within=10)


async def test_superseded_by_the_next_code(program: Inside) -> None:
    user = program.user()
    await connect(user)
    events = await user.ledger()
    by_type = {event["type"]: event["outcome"] for event in events}
    assert by_type["whatsapp_qr"] == "superseded"
    assert by_type["whatsapp_connected"] == "pending"


async def test_expired(tmp_path: Path) -> None:
    async with inside(tmp_path, event_ttl=0.3) as program:
        await waiting(program.user())
        await ended(program.user(), 1, "expired", within=10)
        async with py_client(program.url) as page:
            await asyncio.sleep(0.3)
        assert [event for event in page.events if event["replayed"]] == [], "what expired is never replayed"


async def test_every_event_is_in_the_balance(program: Inside) -> None:
    async with py_client(program.url, "ada"):
        await connect(program.user("ada"))
        await ended(program.user("ada"), 4, "acked")
    await connect(program.user("ben"))
    await waiting(program.user("cid"))
    sums = await balance(program.user())
    assert sums["created"] == sums["ended"] + sums["pending"] == 10
    for name in ("ada", "ben", "cid"):
        for event in await program.user(name).ledger():
            assert event["outcome"] in {*FIVE, "pending"}


async def test_a_restart_changes_nothing_of_what_happened(tmp_path: Path) -> None:
    async with inside(tmp_path) as program:
        user = program.user()
        await connect(user)
        before = await user.ledger()
    async with inside(tmp_path) as program:
        user = program.user()
        await user.state("connected")
        after = await user.ledger()
        assert after[: len(before)] == before
        async with py_client(program.url) as page:
            await page.until(lambda: page.events)
            await ended(user, 1, "acked")
        assert page.seqs == sorted(page.seqs)
    assert {event["id"] for event in page.events} <= {event["id"] for event in after}


async def test_an_event_ends_once(tmp_path: Path) -> None:
    async with inside(tmp_path) as program:
        user = program.user()
        async with py_client(program.url), py_client(program.url), py_client(program.url):
            await connect(user)
            await ended(user, 4, "acked")
        sums = await balance(user)
        assert (sums["created"], sums["ended"], sums["pending"]) == (4, 4, 0)
