"""Hostile clients against the running program: hypothesis writes what they send. Nobody else may notice."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.program import Program, running
from tests.support.py_client import py_client

EXAMPLES = int(os.environ.get("ROUNDTRIP_FUZZ_EXAMPLES", "200"))
GROWTH = 80 * 1024 * 1024
"""Bytes by which the program may have grown when all is over."""

AUTH = json.dumps({"userId": "mallory", "botId": "bot"})

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
).map(lambda value: json.dumps(value))
_EVENTS = st.sampled_from(
    ['"status"', '"auth"', '"connect"', '"disconnect"', '"whatsapp_connection_event"', "7", "null"]
)
_NUMBERS = st.sampled_from(["", "0", "1", "-1", "00", "9" * 18, "9" * 4000, "٣", "²", "1_0", " 1"])
_DEEP = st.integers(1, 20_000).map(lambda depth: "[" * depth)
_PLACEHOLDER = '{"_placeholder":true,"num":0}'


def _packet(kind: str, attachments: str, namespace: str, number: str, data: str) -> str:
    return f"4{kind}{attachments}{namespace}{number}{data}"


PACKETS = st.one_of(
    st.builds(
        _packet,
        st.sampled_from(list("01234567")),
        st.sampled_from(["", "0-", "1-", "3-", "99999999999-", "-", "1"]),
        st.sampled_from(["", "/", "/other,", "/,", "/" + "n" * 300 + ",", "/\x00,"]),
        _NUMBERS,
        st.one_of(
            st.just(""),
            _JSON,
            _DEEP,
            st.builds(lambda name, value: f"[{name},{value}]", _EVENTS, _JSON),
            st.just(f'["status",{_PLACEHOLDER}]'),
        ),
    ),
    st.sampled_from(["", "1", "2", "2probe", "3", "3probe", "5", "6", "7", "9", "b", "bAAAA", "b!", "40" + AUTH, "41"]),
    st.builds(lambda kind, deep: kind + deep, st.sampled_from(list("0123456")), _DEEP),
    st.text(max_size=60),
    st.binary(max_size=200),
)
CONVERSATIONS = st.lists(PACKETS, max_size=10)

QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["EIO", "transport", "sid", "t", "j", "b64", "userId", "botId", "token", ""]),
        st.sampled_from(
            ["4", "3", "x", "", "polling", "websocket", "webtransport", "0", "A" * 20, "%00", "%FF", "'\"<"]
        )
        | st.text(max_size=10),
    ),
    max_size=6,
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "DELETE", "HEAD"])
FRAMES = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80)).map(
        lambda parts: bytes(parts[:2]) + parts[2]
    ),
    max_size=6,
)


class Attack:
    """Sends, and counts what it sent. `_check` looks at each answer."""

    def __init__(self, program: Program, session: aiohttp.ClientSession) -> None:
        self._program = program
        self._session = session
        self.sent = 0

    def _check(self, status: int, body: bytes) -> None:
        assert status < 500, body
        assert b"Traceback" not in body
        assert b'File "' not in body

    async def converse(self, mapped: bool, packets: Sequence[str | bytes]) -> None:
        """Over a websocket, before or after a good handshake."""
        async with self._session.ws_connect(f"{self._program.url}/socket.io/?EIO=4&transport=websocket") as ws:
            await ws.receive_str()
            if mapped:
                await ws.send_str("40" + AUTH)
            for packet in packets:
                self.sent += 1
                if ws.closed:
                    break
                try:
                    await (ws.send_str(packet) if isinstance(packet, str) else ws.send_bytes(packet))
                except (aiohttp.ClientError, ConnectionError, UnicodeError):
                    break

    async def poll(self, method: str, query: Sequence[tuple[str, str]], body: bytes) -> None:
        """Anything at all at Engine.IO's address."""
        self.sent += 1
        timeout = aiohttp.ClientTimeout(total=0.1)  # a good handshake by chance has nothing to wait for
        try:
            async with self._session.request(
                method, f"{self._program.url}/socket.io/", params=list(query), data=body, timeout=timeout
            ) as response:
                self._check(response.status, await response.read())
        except (TimeoutError, aiohttp.ClientConnectionError, UnicodeError):
            pass

    async def post(self, packets: Sequence[str | bytes]) -> None:
        """A polling client that keeps to the protocol but for what it says."""
        url = f"{self._program.url}/socket.io/?EIO=4&transport=polling"
        async with self._session.get(url) as response:
            sid = json.loads((await response.text())[1:])["sid"]
        parts = [p.encode(errors="surrogatepass") if isinstance(p, str) else p for p in packets]
        self.sent += len(parts)
        for body in (b"40" + AUTH.encode(), b"\x1e".join(parts)):
            async with self._session.post(f"{url}&sid={sid}", data=body) as response:
                self._check(response.status, await response.read())

    async def upgrade(self, packets: Sequence[str | bytes]) -> None:
        """A polling client whose upgrade goes wrong; it must be able to go on polling."""
        url = f"{self._program.url}/socket.io/?EIO=4&transport=polling"
        async with self._session.get(url) as response:
            sid = json.loads((await response.text())[1:])["sid"]
        async with self._session.post(f"{url}&sid={sid}", data="40" + AUTH) as response:
            self._check(response.status, await response.read())
        async with self._session.ws_connect(f"{url.replace('polling', 'websocket')}&sid={sid}") as ws:
            for packet in packets:
                self.sent += 1
                if not ws.closed:
                    await (ws.send_str(packet) if isinstance(packet, str) else ws.send_bytes(packet))
        async with self._session.get(f"{url}&sid={sid}", timeout=aiohttp.ClientTimeout(total=5)) as response:
            self._check(response.status, await response.read())

    async def frames(self, frames: Sequence[bytes]) -> None:
        """Broken websocket frames, and text that is not UTF-8."""
        parts = urlsplit(self._program.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(
                b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            for frame in frames:
                self.sent += 1
                writer.write(frame)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def _drive(runner: asyncio.Runner, attack: Attack) -> None:
    """Each strategy in turn; hypothesis is a synchronous driver."""
    bounded = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )

    @bounded
    @given(st.booleans(), CONVERSATIONS)
    def converse(mapped: bool, packets: list[str | bytes]) -> None:
        runner.run(attack.converse(mapped, packets))

    @bounded
    @given(METHODS, QUERIES, st.binary(max_size=100))
    def poll(method: str, query: list[tuple[str, str]], body: bytes) -> None:
        runner.run(attack.poll(method, query, body))

    @bounded
    @given(CONVERSATIONS)
    def post(packets: list[str | bytes]) -> None:
        runner.run(attack.post(packets))

    @bounded
    @given(st.lists(PACKETS | st.just("2probe"), min_size=1, max_size=3))
    def upgrade(packets: list[str | bytes]) -> None:
        runner.run(attack.upgrade(packets))

    @bounded
    @given(FRAMES)
    def frames(frames: list[bytes]) -> None:
        runner.run(attack.frames(frames))

    for part in (converse, poll, post, upgrade, frames):
        began = time.monotonic()
        part()
        print(f"{part.__name__}: {time.monotonic() - began:.1f} s, {attack.sent} inputs so far")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hostile_clients_are_noticed_by_nobody(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        started = running(tmp_path, body_timeout=0.3)
        program = runner.run(started.__aenter__())
        session = runner.run(_session())
        try:
            attack = Attack(program, session)
            before = psutil.Process(program.pid).memory_info().rss
            _drive(runner, attack)
            runner.run(_others_are_served(program))
            grown = psutil.Process(program.pid).memory_info().rss - before
            print(f"{attack.sent} hostile inputs; the program grew by {grown / 1e6:.0f} MB")
            assert program.process.returncode is None
            assert grown < GROWTH
            errors = [line for line in program.text().splitlines() if '"level":"error"' in line.replace(" ", "")]
            for line in errors[:5]:
                print(json.loads(line).get("exception", line))
            assert not errors
            assert "Traceback" not in program.text()
        finally:
            runner.run(session.close())
            runner.run(started.__aexit__(None, None, None))


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()


async def _others_are_served(program: Program) -> None:
    async with py_client(program.url, "ada") as client, aiohttp.ClientSession() as session:
        url = f"{program.url}/api/bots/bot/link"
        async with session.put(url, headers={"X-User-Id": "ada"}) as response:
            assert response.status == 202
        await client.until(lambda: any(event["type"] == "whatsapp_qr" for event in client.events))
