"""Chapter "Named faults": what one should see of each, and that all is well again without it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.inside import Inside, inside
from tests.support.lives import connect, ended, settled, total
from tests.support.py_client import py_client


async def replayed(program: Inside) -> bool:
    """Whether the replay of every socket is over: until then what is published is held back and sent after it."""
    _, shown, _ = await program.admin("GET", "/debug/sockets")
    return all(socket["live"] for key in shown["keys"] for socket in key["sockets"])


async def test_key_mismatch(program: Inside) -> None:
    user = program.user()
    async with py_client(program.url) as page:
        await settled(lambda: replayed(program))
        await program.fault("key_mismatch")
        await user.link()
        await user.state("qr")
        assert total(await user.metrics(), "roundtrip_missed_emits_total", reason="key_mismatch") == 2
        assert page.events == []
        await program.fault("key_mismatch", on=False)
    async with py_client(program.url) as back:
        await back.count(1)  # whoever comes again gets it after all


async def test_stale_cleanup(program: Inside) -> None:
    user = program.user()
    await program.fault("stale_cleanup")
    async with py_client(program.url) as old, py_client(program.url) as new:
        await old.io.disconnect()

        async def left() -> bool:
            return total(await user.metrics(), "roundtrip_socket_disconnects_total") == 1

        await settled(left)
        assert new.io.connected
        await user.link()
        await user.state("qr")
        assert new.events == []
        assert total(await user.metrics(), "roundtrip_missed_emits_total") == 2
        await program.fault("stale_cleanup", on=False)


async def test_drop_acks(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.1, faults="drop_acks") as program:
        user = program.user()
        async with py_client(program.url, acks=True) as page:
            await user.link()
            await page.until(lambda: len([event for event in page.events if event["seq"] == 1]) > 1)
            assert total(await user.metrics(), "roundtrip_missed_emits_total", reason="ack_timeout") > 0
            await program.fault("drop_acks", on=False)
            await ended(user, 1, "acked", within=10)


async def test_drop_receipts(tmp_path: Path) -> None:
    async with inside(tmp_path, ack_timeout=0.1, ping_interval=1) as program:
        user = program.user()
        await program.fault("drop_receipts")
        async with py_client(program.url, acking=False):
            await user.link()
            await user.state("qr")
            await asyncio.sleep(1.5)  # a heartbeat has come and gone, whose receipt would have ended it
            assert {event["outcome"] for event in await user.ledger()} == {"pending"}
            assert (await user.metrics())["roundtrip_oldest_pending_event_age_seconds"] > 1
            await program.fault("drop_receipts", on=False)
            await ended(user, 1, "received", within=15)


async def test_early_disconnect(program: Inside) -> None:
    await program.fault("early_disconnect", parameter=50)
    async with py_client(program.url) as page:
        async with asyncio.timeout(5):
            while page.io.connected:
                await asyncio.sleep(0.01)

        async def counted() -> bool:
            return total(await program.user().metrics(), "roundtrip_socket_disconnects_total") == 1

        await settled(counted)
    await program.fault("early_disconnect", on=False)
    async with py_client(program.url) as page:
        await asyncio.sleep(0.2)
        assert page.io.connected


async def test_slow_outbox(program: Inside) -> None:
    user = program.user()
    await program.fault("slow_outbox", parameter=0.2)
    async with py_client(program.url) as page:
        await user.link()
        await page.count(2)
        samples = await user.metrics()
        assert total(samples, "roundtrip_outbox_write_seconds_sum") >= 0.2
        assert total(samples, "roundtrip_delivery_seconds_sum") >= 0.2
        await program.fault("slow_outbox", on=False)


async def test_outbox_down(program: Inside) -> None:
    user = program.user()
    await program.fault("outbox_down")
    async with py_client(program.url) as page:
        status, problem = await user.call("PUT", "/api/bots/bot/link")
        assert (status, problem["code"]) == (503, "outbox_unavailable")
        assert page.events == []
        await program.fault("outbox_down", on=False)
        await user.link()
        await page.count(1)


async def test_whatsapp_flap(tmp_path: Path) -> None:
    async with inside(tmp_path, disconnect_grace=0) as program:
        user = program.user()
        await connect(user)
        await program.fault("whatsapp_flap", parameter=0.05)

        async def wavers() -> bool:
            return total(await user.metrics(), "roundtrip_link_transitions_total", to="disconnected") >= 2

        await settled(wavers, within=10)
        await program.fault("whatsapp_flap", on=False)
        await user.state("connected")
        await program.fault("whatsapp_flap", parameter=60)
        await user.state("disconnected")
        await program.fault("whatsapp_flap", on=False)
        await user.state("connected")  # whatever the fault took away comes back with its end
