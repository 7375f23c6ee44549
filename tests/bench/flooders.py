"""The floods: each input that the public listener takes, without a token and from a member, as fast as it goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.support.wire import POLLING, WEBSOCKET, Wire, frame, request

BUDGET: Final = 24 * 1024 * 1024
"""Bytes after which a flooder stops: what is kept as it came stays within the bound, what is multiplied does not."""

MORE: Final = 120 * 1024 * 1024
"""The same where every byte is answered with one: it takes more than the bound."""

MOST_CONNECTIONS: Final = 1000
BODY: Final = 65_000
"""Just below the largest packet and body of the default settings."""

_OVER: Final = (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError)


class Attack:
    """One flooder: what it sent and got. Its connections stay open."""

    def __init__(self, url: str, until: float, budget: int = BUDGET, token: str = "") -> None:
        """`until` is in monotonic seconds, `budget` in bytes; `token` is for those that join."""
        self.url = url
        self.connect = b"40" + json.dumps({"token": token, "botId": "flood"}).encode()
        self.until = until
        self._budget = budget
        self.answers: Counter[str] = Counter()
        self.wires: list[Wire] = []

    @property
    def sent(self) -> int:
        return sum(wire.sent for wire in self.wires)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until or self.sent >= self._budget

    async def wire(self) -> Wire:
        wire = Wire(self.url)
        self.wires.append(wire)
        return await wire.open()

    async def ask(self, wire: Wire, method: str, path: str, body: bytes = b"") -> int:
        status, _ = await wire.ask(method, path, body)
        self.answers[str(status)] += 1
        return status

    async def polling(self) -> tuple[Wire, str]:
        """A fresh connection with a polling handshake; the path of its sid."""
        wire = await self.wire()
        return wire, f"{POLLING}&sid={await wire.sid()}"

    async def websocket(self, path: str = WEBSOCKET) -> Wire:
        wire = await self.wire()
        status = await wire.websocket(path)
        if status != 101:
            self.answers[str(status)] += 1
            wire.close()
            raise ConnectionRefusedError(status)
        return wire

    async def hammer(self, one: Callable[[Attack], Awaitable[None]], at_once: int) -> None:
        """Do it again and again, `at_once` beside each other. What the program ends is begun anew."""

        async def worker() -> None:
            while not self.over:
                try:
                    await one(self)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
                except _OVER:
                    self.answers["closed"] += 1
                    await asyncio.sleep(0.01)

        tasks = [asyncio.ensure_future(worker()) for _ in range(at_once)]
        await asyncio.wait(tasks, timeout=max(0.0, self.until - time.monotonic()) + 0.2)
        for task in tasks:
            if not task.done():
                self.answers["still open"] += 1
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Flood:
    name: str
    limit: str
    """What bounds it."""
    run: Callable[[Attack], Awaitable[None]]
    budget: int = BUDGET
    """Bytes to send at most."""
    alike: bool = False
    """It takes the way of another one in the table, so the suite leaves it out."""


Step = Callable[[Attack], Awaitable[None]]


def repeated(one: Step, at_once: int) -> Step:
    async def run(attack: Attack) -> None:
        await attack.hammer(one, at_once)

    return run


# connections and heads


async def _silent(first: bytes, attack: Attack) -> None:
    if len(attack.wires) >= MOST_CONNECTIONS:
        await asyncio.sleep(0.05)
        return
    wire = await attack.wire()
    if first:
        await wire.send(first)


async def _head_without_end(attack: Attack) -> None:
    wire = await attack.wire()
    await wire.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
    number = 0
    while not attack.over:
        number += 1
        await wire.send(b"X-%d: %b\r\n" % (number, b"a" * 16_000))
        if wire.reader.at_eof():
            raise ConnectionError
    await asyncio.sleep(3600)


# bodies


async def _stalled_body(attack: Attack) -> None:
    wire, path = await attack.polling()
    await wire.send(request("POST", path, b"6" * BODY)[:-1])
    attack.answers[str((await wire.answer())[0])] += 1
    await asyncio.sleep(0.01)


async def _large_body(attack: Attack) -> None:
    wire, path = await attack.polling()
    await wire.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n".encode())
    while not attack.over:
        await wire.send(b"6" * BODY)


async def _chunks(path: str, attack: Attack) -> None:
    wire = await attack.wire()
    await wire.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    while not attack.over:
        await wire.send(b"%x\r\n%b\r\n" % (BODY, b"a" * BODY))


# handshakes


async def _handshakes(path: str, attack: Attack) -> None:
    wire = await attack.wire()
    while not attack.over:
        if await attack.ask(wire, "GET", path) != 200:
            await asyncio.sleep(0.005)


async def _websockets(attack: Attack) -> None:
    if len(attack.wires) >= MOST_CONNECTIONS:
        await asyncio.sleep(0.05)
        return
    await attack.websocket()
    attack.answers["101"] += 1


# packets


async def _posts(packet: bytes, attack: Attack, *, joined: bool = False) -> None:
    """Bodies full of one packet, to a sid that is never polled."""
    wire, path = await attack.polling()
    if joined and await attack.ask(wire, "POST", path, attack.connect) != 200:
        return
    body = b"\x1e".join([packet] * (BODY // (len(packet) + 1)))
    while not attack.over:
        if await attack.ask(wire, "POST", path, body) != 200:
            return


async def _frames(packet: bytes, reads: bool, attack: Attack) -> None:
    """Text frames, as many in one write as go into 64 KB."""
    wire = await attack.websocket()
    reader = asyncio.ensure_future(_read(wire)) if reads else None
    if reader is None:
        await wire.until(b"0{")
        wire.deaf()
    data = frame(packet) * max(1, BODY // len(packet))
    try:
        while not attack.over:
            await wire.send(data)
            if reader is not None and reader.done():
                raise ConnectionError
        if reader is None:
            await asyncio.sleep(3600)
    finally:
        if reader is not None:
            reader.cancel()


async def _read(wire: Wire) -> None:
    while await wire.reader.read(1 << 16):
        pass


async def _joined_frames(packets: tuple[bytes, ...], piece: bytes, attack: Attack) -> None:
    """A websocket that joins, sends these frames, and then the piece again and again; nothing is read."""
    wire = await attack.websocket()
    await wire.send(frame(attack.connect))
    wire.deaf()
    for packet in packets:
        await wire.send(packet)
    data = piece * max(1, BODY // len(piece))
    while not attack.over:
        await wire.send(data)
    await asyncio.sleep(3600)


async def _connects(attack: Attack) -> None:
    """One that would join a thousand times; nothing is read."""
    await _joined_frames((), frame(attack.connect), attack)


async def _bytes_in(data: bytes, attack: Attack) -> None:
    """A websocket whose bytes are whatever these are, again and again; nothing is read."""
    wire = await attack.websocket()
    wire.deaf()
    while not attack.over:
        await wire.send(data)
    await asyncio.sleep(3600)


async def _attachments(attack: Attack) -> None:
    """An event before CONNECT that announces 40,000 binary parts, which come."""
    wire = await attack.websocket()
    await wire.send(frame(b'4540000-["status",{"_placeholder":true,"num":0}]'))
    while not attack.over:
        await wire.send(frame(b"\0" * BODY, 2))
    await asyncio.sleep(3600)


async def _fragments(attack: Attack) -> None:
    wire = await attack.websocket()
    first = bytearray(frame(b"4" * BODY))
    first[0] = 0x01  # text, and more follows
    more = bytearray(frame(b"4" * BODY))
    more[0] = 0x00
    await wire.send(bytes(first))
    while not attack.over:
        await wire.send(bytes(more))
    await asyncio.sleep(3600)


# sids


async def _one_sid(what: str, attack: Attack) -> None:
    """Many requests at one sid at once: polls, posts, or websockets that probe it. A sid that ended is replaced."""
    _, path = await attack.polling()
    newest = [path]

    async def another(_attack: Attack) -> None:
        if what == "probe":
            wire = await attack.websocket(newest[0].replace("polling", "websocket"))
            await wire.send(frame("2probe"))
            await wire.until(b"3probe")
            attack.answers["3probe"] += 1
            await asyncio.sleep(3600)
            return
        wire = await attack.wire()
        while not attack.over:
            path = newest[0]
            if await attack.ask(wire, what, path, b"3" if what == "POST" else b"") != 200 and path == newest[0]:
                newest[0] = f"{POLLING}&sid={await wire.sid()}"

    await attack.hammer(another, 200)


async def _unknown_sids(attack: Attack) -> None:
    wire = await attack.wire()
    number = 0
    while not attack.over:
        number += 1
        await attack.ask(wire, "POST" if number % 2 else "GET", f"{POLLING}&sid=AAAAAAAAAAAAAAAA{number}", b"3")


_PART: Final = b"x" * 60_000
_NAMESPACE: Final = b"40/" + b"a" * 60_000 + b","

FLOODS: Final = (
    Flood("silent connections", "MAX_CONNECTIONS_PER_ADDRESS, HEADER_TIMEOUT", repeated(partial(_silent, b""), 50)),
    Flood("an empty line, then silence", "HEADER_TIMEOUT", repeated(partial(_silent, b"\r\n\r\n"), 50), alike=True),
    Flood("a head without end", "16 KiB a line, and a head's size", repeated(_head_without_end, 20)),
    Flood("bodies that stall", "MAX_BODY, BODY_TIMEOUT", repeated(_stalled_body, 200)),
    Flood("bodies past the limit", "MAX_PACKET", repeated(_large_body, 20), alike=True),
    Flood(
        "chunks to the API", "MAX_BODY, BODY_TIMEOUT", repeated(partial(_chunks, "/api/bots/b/link"), 20), alike=True
    ),
    Flood("chunks to the socket path", "MAX_PACKET, BODY_TIMEOUT", repeated(partial(_chunks, POLLING), 20)),
    Flood("polling handshakes", "HANDSHAKES_PER_ADDRESS", repeated(partial(_handshakes, POLLING), 20)),
    Flood("JSONP handshakes", "refused", repeated(partial(_handshakes, f"{POLLING}&j=0"), 20)),
    Flood("websockets that never join", "HANDSHAKES_PER_ADDRESS", repeated(_websockets, 20)),
    Flood("UPGRADE packets by POST", "packets where they do not belong", repeated(partial(_posts, b"5"), 4)),
    Flood("OPEN packets by POST", "packets where they do not belong", repeated(partial(_posts, b"0"), 4), alike=True),
    Flood("PING packets by POST", "packets where they do not belong", repeated(partial(_posts, b"2"), 4), alike=True),
    Flood("PONG packets by POST", "EVENTS_PER_SOCKET", repeated(partial(_posts, b"3"), 4)),
    Flood("NOOP packets by POST", "packets where they do not belong", repeated(partial(_posts, b"6"), 4), alike=True),
    Flood("CONNECTs by POST", "EVENTS_PER_SOCKET", repeated(partial(_posts, b"40"), 4)),
    Flood(
        "UPGRADE frames",
        "packets where they do not belong",
        repeated(partial(_frames, b"5", False), 10),
        budget=MORE,
        alike=True,
    ),
    Flood("PONG frames", "EVENTS_PER_SOCKET", repeated(partial(_frames, b"3", False), 10), alike=True),
    Flood(
        "long namespaces, never read",
        "other namespaces close",
        repeated(partial(_frames, _NAMESPACE, False), 10),
        budget=MORE,
    ),
    Flood("short namespaces, read", "other namespaces close", repeated(partial(_frames, b"40/z,", True), 10)),
    Flood("CONNECTs without a token", "EVENTS_PER_SOCKET", repeated(partial(_frames, b"40", True), 10)),
    Flood(
        "events before CONNECT", "EVENTS_PER_SOCKET", repeated(partial(_frames, b'42["status"]', False), 10), alike=True
    ),
    Flood("acks before CONNECT", "EVENTS_PER_SOCKET", repeated(partial(_frames, b"431[]", False), 10)),
    Flood("deep JSON", "MAX_PACKET", repeated(partial(_frames, b"42" + b"[" * 60_000, False), 10), alike=True),
    Flood("binary attachments", "attachments of a packet in all", repeated(_attachments, 10)),
    Flood("fragments without end", "MAX_PACKET", repeated(_fragments, 10)),
    Flood(
        "websocket PINGs, never read",
        "SEND_QUEUE_LIMIT",
        repeated(partial(_bytes_in, frame(b"a" * 125, 9) * 400), 10),
        budget=MORE,
    ),
    Flood("polls of one sid at once", "one poll a sid", repeated(partial(_one_sid, "GET"), 1)),
    Flood("posts to one sid at once", "EVENTS_PER_SOCKET", repeated(partial(_one_sid, "POST"), 1)),
    Flood("probes of one sid at once", "one probe a sid", repeated(partial(_one_sid, "probe"), 1)),
    Flood("unknown sids", "MAX_CONNECTIONS_PER_ADDRESS", repeated(_unknown_sids, 20)),
    Flood("PONG packets of a member by POST", "unasked PONGs", repeated(partial(_posts, b"3", joined=True), 4)),
    Flood("acks of a member by POST", "unasked acks", repeated(partial(_posts, b"431[]", joined=True), 4)),
    Flood(
        "requests of a member by POST", "EVENTS_PER_SOCKET", repeated(partial(_posts, b'420["status"]', joined=True), 4)
    ),
    Flood("CONNECTs of a member, never read", "one CONNECT a connection", repeated(_connects, 10), budget=MORE),
    Flood(
        "requests of a member, never read",
        "EVENTS_PER_SOCKET, SEND_QUEUE_LIMIT",
        repeated(partial(_joined_frames, (), frame(b'420["status"]')), 10),
        budget=MORE,
    ),
    Flood(
        "acks of a member, never read",
        "unasked acks",
        repeated(partial(_joined_frames, (), frame(b"431[]")), 10),
        budget=MORE,
    ),
    Flood(
        "endless attachments of a member",
        "attachments of a packet",
        repeated(
            partial(_joined_frames, (frame(b'45999999999-["status",{"_placeholder":true,"num":0}]'),), frame(_PART, 2)),
            10,
        ),
        budget=MORE,
    ),
    Flood(
        "eight attachments of a member",
        "attachments of a packet in all",
        repeated(partial(_joined_frames, (frame(b'458-["status"]'),), frame(_PART, 2)), 10),
        budget=MORE,
    ),
)
