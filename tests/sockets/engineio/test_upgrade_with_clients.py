"""Upgrades that are attempted twice, or fail, over real connections."""

from __future__ import annotations

import aiohttp
import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.sockets.engineio import transports
from tests.sockets.raw import connect, raw_polling
from tests.support.py_client import eventually
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


async def test_one_websocket_at_a_time_may_claim_a_session() -> None:
    async with stage() as s, raw_polling(s.url, connect()) as client:
        await client.until("42")
        url = f"{s.url}/socket.io/?EIO=4&transport=websocket&sid={client.sid}"
        async with client.session.ws_connect(url) as first:
            for _ in range(3):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await client.session.ws_connect(url)
                assert refused.value.status == 400
            await first.send_str("2probe")
            assert await first.receive_str() == "3probe"
            await first.send_str("5")
            await s.courier.publish(KEY, "link", CONNECTED)
            while not (await first.receive_str()).startswith("421["):
                pass
            assert [peer.transport for peer in s.registry.all()] == ["websocket"]
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.session.ws_connect(url)
        await eventually(lambda: s.notes.disconnects)


@pytest.mark.parametrize("said", [["3"], ["2probe", "3"], ["2probe"], ["431[]"], []])
async def test_polling_goes_on_after_a_failed_upgrade(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "UPGRADE_TIMEOUT", 0.3)
    async with stage(ack_timeout=60) as s, raw_polling(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        url = f"{s.url}/socket.io/?EIO=4&transport=websocket&sid={client.sid}"
        async with client.session.ws_connect(url) as ws:
            for packet in said:
                await ws.send_str(packet)
            while (await ws.receive(timeout=5)).type is aiohttp.WSMsgType.TEXT:
                pass  # until the server gives it up
        assert not s.notes.settled_, "a websocket that proved nothing confirms nothing"
        await client.until("421[")
        assert await client.post("431[]") == 200
        await eventually(lambda: s.notes.settled_)
        assert [peer.transport for peer in s.registry.all()] == ["polling"]
        async with client.session.ws_connect(url) as again:  # and it may try again
            await again.send_str("2probe")
            assert await again.receive_str() == "3probe"
