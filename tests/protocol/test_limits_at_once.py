"""The socket limits, asked all at once from many connections: exactly as many get in as the setting says."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import Program, api, running
from tests.support.raw_client import RawClient, raw_client

MANY = 60
TRANSPORTS = ("websocket", "polling")


async def code(client: RawClient, user: str, bot: str) -> str:
    """CONNECT: `accepted`, the refusal's code, or `closed`."""
    answer = await client.join(userId=user, botId=bot)
    if answer.startswith("40"):
        return "accepted"
    return str(json.loads(answer[2:])["data"]["code"]) if answer.startswith("44") else "closed"


async def all_at_once(program: Program, stack: AsyncExitStack, transport: str, bots: list[str]) -> list[RawClient]:
    """So many connections, open and not yet joined."""
    return list(await asyncio.gather(*(stack.enter_async_context(raw_client(program.url, transport)) for _ in bots)))


async def refused(program: Program) -> dict[str, float]:
    """Counted refusals by result."""
    async with api(program) as admin:
        metrics = await admin.metrics()
    name = 'roundtrip_socket_connects_total{result="'
    return {
        sample.removeprefix(name)[:-2]: value for sample, value in metrics.items() if sample.startswith(name) and value
    }


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    ("setting", "bots", "most"),
    [
        ("max_sockets_per_key", ["bot"] * MANY, 5),
        ("max_sockets_per_user", [f"bot-{number}" for number in range(MANY)], 7),
    ],
)
async def test_no_more_sockets_than_allowed_are_let_in_at_once(
    tmp_path: Path, transport: str, setting: str, bots: list[str], most: int
) -> None:
    limit: dict[str, Any] = {setting: most}
    async with running(tmp_path, **limit) as program, api(program) as admin:
        for turn in range(2):  # places that were given back are the same places
            async with AsyncExitStack() as round_:
                clients = await all_at_once(program, round_, transport, bots)
                answers = Counter(
                    await asyncio.gather(
                        *(code(client, "user", bot) for client, bot in zip(clients, bots, strict=True))
                    )
                )
                assert answers == {"accepted": most, "too_many_sockets": MANY - most}, turn
                totals = (await admin.admin("/debug/sockets"))["totals"]
                assert totals["sockets"] == most
                for client in clients:
                    await client.send("1")
            async with asyncio.timeout(10):
                while (await admin.admin("/debug/sockets"))["totals"]["sockets"]:
                    await asyncio.sleep(0.02)
        assert await refused(program) == {"accepted": 2 * most, "too_many_sockets": 2 * (MANY - most)}
        async with raw_client(program.url, transport) as other:
            assert await code(other, "somebody else", "bot") == "accepted"


async def test_one_connection_that_joins_many_times_holds_one_place(tmp_path: Path) -> None:
    """All CONNECTs in one write, between leavings."""
    async with running(tmp_path, max_sockets_per_key=5) as program, api(program) as admin, AsyncExitStack() as stack:
        auth = json.dumps({"userId": "user", "botId": "bot"})
        clients = [await stack.enter_async_context(raw_client(program.url, "polling")) for _ in range(8)]
        await asyncio.gather(*(client.send(*[f"40{auth}", "41"] * 20, f"40{auth}") for client in clients))
        for client in clients:
            await client.until(lambda client=client: client.closed or client._answer(0))  # type: ignore[misc]  # bound here
        view = await admin.admin("/debug/sockets")
        assert view["totals"]["sockets"] <= 5
        heard = [client for client in clients if client.closed is None]
        for client in heard:
            accepted = sum(packet.text.startswith("40{") for packet in client.heard)
            assert accepted <= 1, "one connection carries one socket in its life"
        for client in clients:
            await client.send("1")
        async with asyncio.timeout(5):
            while (await admin.admin("/debug/sockets"))["totals"]["sockets"]:
                await asyncio.sleep(0.02)
        async with AsyncExitStack() as again:
            fresh = [await again.enter_async_context(raw_client(program.url, "websocket")) for _ in range(6)]
            answers = Counter(await asyncio.gather(*(code(client, "user", "bot") for client in fresh)))
            assert answers == {"accepted": 5, "too_many_sockets": 1}, "no place was lost, none was made"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_handshakes_of_one_user_are_counted_at_once(tmp_path: Path, transport: str) -> None:
    burst, rate = 8, 0.2
    async with (
        running(tmp_path, handshakes_per_user=rate, handshakes_per_user_burst=burst) as program,
        AsyncExitStack() as stack,
    ):
        clients = await all_at_once(program, stack, transport, ["bot"] * MANY)
        began = time.monotonic()
        answers = Counter(
            await asyncio.gather(*(code(client, "user", f"bot-{number}") for number, client in enumerate(clients)))
        )
        most = burst + int((time.monotonic() - began) * rate) + 1
        assert set(answers) == {"accepted", "rate_limited"}
        assert burst <= answers["accepted"] <= most
        async with raw_client(program.url, transport) as other:
            assert await code(other, "somebody else", "bot") == "accepted"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_handshakes_of_one_address_are_counted_at_once(tmp_path: Path, transport: str) -> None:
    """Each is refused with 429 before there is an engine socket."""
    burst, rate = 8, 0.2

    async def knock(client: RawClient) -> int:
        try:
            await client.open(transport)
        except Exception as error:  # noqa: BLE001  # either transport's own error carries the status
            return int(getattr(error, "status", 0))
        return 200

    async with running(tmp_path, handshakes_per_address=rate, handshakes_per_address_burst=burst) as program:
        clients = [RawClient(program.url) for _ in range(MANY)]
        began = time.monotonic()
        try:
            answers = Counter(await asyncio.gather(*(knock(client) for client in clients)))
            most = burst + int((time.monotonic() - began) * rate) + 1
            assert set(answers) == {200, 429}
            assert burst <= answers[200] <= most
            # who is in already is not asked again
            [first, *_] = [client for client in clients if client.eio_sid]
            assert await code(first, "user", "bot") == "accepted"
        finally:
            await asyncio.gather(*(client.close() for client in clients))


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_requests_of_one_socket_are_counted_at_once_and_each_is_answered(tmp_path: Path, transport: str) -> None:
    """What is over the limit gets a word of its own, not silence: an ack where one was asked for."""
    burst, rate = 10, 0.2
    async with (
        running(tmp_path, events_per_socket=rate, events_per_socket_burst=burst) as program,
        raw_client(program.url, transport) as client,
        raw_client(program.url, transport) as bystander,
    ):
        assert await code(client, "user", "bot") == "accepted"
        assert await code(bystander, "user", "other bot") == "accepted"
        asked = 40
        await asyncio.gather(*(client.send(f'42{number}["auth",{{"token":"x"}}]') for number in range(1, asked + 1)))

        def answers() -> set[int]:
            return {
                int(text[2:].partition("[")[0]) for _, text in client.heard if text.startswith("43") and "[" in text
            }

        await client.until(lambda: client.closed or len(answers()) == asked, within=5)
        assert client.closed is None
        spoken = [
            json.loads(text[2:].partition("[")[2].join(["[", ""])) for _, text in client.heard if text[:2] == "43"
        ]
        codes = Counter(answer[0].get("code", "ok") for answer in spoken)
        assert codes["rate_limited"] >= asked - burst - 1
        assert 0 < codes["ok"] <= burst + 1, "trusted mode takes any token"
        await bystander.send('421["auth",{"token":"x"}]')
        await bystander.until(lambda: any(text.startswith("431[") for _, text in bystander.heard))
