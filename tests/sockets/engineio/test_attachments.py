"""Binary attachments: how many and how large, and what becomes of an event that waits for them."""

from __future__ import annotations

import pytest

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.sockets.access import SocketAccess
from roundtrip.sockets.engineio.server import ATTACHMENTS
from tests.sockets.raw import RawSocket, connect, raw_socket
from tests.support.py_client import eventually
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)
PLACEHOLDER = '{"_placeholder":true,"num":0}'


@pytest.mark.parametrize(
    ("packets", "what"),
    [
        ([f'45{ATTACHMENTS + 1}-["x"]'], "attachments"),
        (['45999999999-["x",{"_placeholder":true,"num":0}]'], "attachments"),
        (['452-["x"]', b"a" * 40_000, b"b" * 40_000], "attachments"),
        (['452-["x"]', '42["status"]'], "attachments"),
        (['451-["x",{"_placeholder":true,"num":7}]', b"a"], "malformed"),
        ([b"a"], "malformed"),
    ],
)
async def test_binary_attachments_are_limited_in_all(packets: list[str | bytes], what: str) -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        for packet in packets:
            await (client.ws.send_bytes(packet) if isinstance(packet, bytes) else client.ws.send_str(packet))
        await client.ended()
        assert s.notes.refused == [what]
        assert not s.server.engine._binary_packet


async def test_a_binary_acknowledgement_counts() -> None:
    async with stage(ack_timeout=60) as s, raw_socket(s.url, connect(acks=True)) as client:
        await client.until("42")
        await s.courier.publish(KEY, "link", CONNECTED)
        await client.until("421[")
        await client.ws.send_str('461-1[{"_placeholder":true,"num":0}]')
        await client.ws.send_bytes(b"thanks")
        await eventually(lambda: s.notes.settled_)
        assert s.notes.settled_[0].event.seq == 1
        await client.ws.send_str('461-7[{"_placeholder":true,"num":0}]')  # nobody's
        await client.ws.send_bytes(b"thanks")
        await client.send('420["status"]')
        await client.until("42")
        assert not s.notes.refused


async def still_serves(client: RawSocket) -> None:
    await client.send('429["status"]')
    await client.until("439[]")


@pytest.mark.parametrize("sizes", [[1] * 8, [65_535], [65_000, 536], [0]], ids=str)
async def test_eight_attachments_as_large_as_a_packet_in_all_are_taken(sizes: list[int]) -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        names = ",".join(PLACEHOLDER.replace("0}", f"{number}}}") for number in range(len(sizes)))
        await client.send(f'45{len(sizes)}-7["status",{names}]')
        for size in sizes:
            await client.ws.send_bytes(b"x" * size)
        await client.until("437[]")
        assert s.notes.refused == []


async def test_an_attachment_over_the_request_rate_drops_its_event() -> None:
    """What came of the event is forgotten, so that the next message is not taken for its attachment."""
    allowed = iter([True, True, False])

    class FakeAccess(SocketAccess):
        async def allowed(self, eio_sid: str) -> bool:
            return next(allowed, True)

    async with stage(door=FakeAccess()) as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(f'451-7["status",{PLACEHOLDER}]')
        await client.ws.send_bytes(b"x")
        await still_serves(client)
        assert s.notes.refused == []


async def test_a_partial_binary_event_is_dropped_with_its_socket() -> None:
    async with stage() as s:
        async with raw_socket(s.url, connect(), f'452-7["status",{PLACEHOLDER}]') as client:
            await eventually(lambda: s.server.engine._binary_packet)
            await client.ws.close()
        await eventually(lambda: s.notes.disconnects)
        assert not s.server.engine._binary_packet
        assert not s.server.engine.environ


async def test_a_binary_acknowledgement_without_a_number_is_ignored() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(f"461-[{PLACEHOLDER}]")
        await client.ws.send_bytes(b"x")
        await still_serves(client)
        assert s.notes.refused == []


async def test_a_binary_acknowledgement_that_is_no_array_closes_its_socket() -> None:
    async with stage() as s, raw_socket(s.url, connect()) as client:
        await client.until("42")
        await client.send(f"461-1{PLACEHOLDER}")
        await client.ws.send_bytes(b"x")
        await client.ended()
        assert s.notes.refused in (["ack"], ["malformed"])
        assert s.notes.disconnects == ["protocol_error"]
