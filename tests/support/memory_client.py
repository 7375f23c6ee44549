"""A Socket.IO client spoken by hand, over any connection: what it does and leaves out is the test's choice."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol


class Wire(Protocol):
    """The client's end of a connection; `MemoryTransport` is one."""

    def said(self, data: bytes) -> None: ...
    def reads(self, yes: bool) -> None: ...
    def hang_up(self) -> None: ...
    def reset(self) -> None: ...


Dial = Callable[[Callable[[bytes], None], Callable[[], None]], Wire]
"""Opens a connection: what the server writes goes to the first, and the second is told that nothing more will come."""

_MASK: Final = b"\0\0\0\0"  # a mask of zeros is a mask


class Http:
    """One HTTP/1.1 connection: one request at a time, the answers in order; becomes a websocket where it is told so."""

    def __init__(self, dial: Dial, gone: Callable[[], None]) -> None:
        self._waiting: deque[Callable[[int, str], None]] = deque()
        self._in = b""
        self._frame: Callable[[int, bytes], None] | None = None
        self.wire = dial(self._got, gone)

    def request(self, method: str, target: str, answered: Callable[[int, str], None], body: str = "") -> None:
        self._waiting.append(answered)
        data = body.encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(data)}\r\n\r\n"
        self.wire.said(head.encode() + data)

    def upgrade(self, target: str, opened: Callable[[int, str], None], frame: Callable[[int, bytes], None]) -> None:
        """Ask for a websocket; its frames go to `frame(opcode, data)` once it stands."""
        self._waiting.append(opened)
        self._frame = frame
        self.wire.said(
            f"GET {target} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )

    def send_frame(self, opcode: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | opcode])
        head += bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
        self.wire.said(head + _MASK + data)

    def _got(self, data: bytes) -> None:
        self._in += data
        while self._answer() if self._waiting else self._one_frame():
            pass

    def _answer(self) -> bool:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._in[:end].decode().lower().split("\r\n")
        status = int(head[0].split(" ")[1])
        size = next((int(line.split(":")[1]) for line in head if line.startswith("content-length:")), 0)
        if len(self._in) < end + 4 + size:
            return False
        body = self._in[end + 4 : end + 4 + size].decode()
        self._in = self._in[end + 4 + size :]
        self._waiting.popleft()(status, body)
        return True

    def _one_frame(self) -> bool:
        data = self._in
        if self._frame is None or len(data) < 2:
            return False
        size, start = data[1] & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return False
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return False
        self._in = data[start + size :]
        self._frame(data[0] & 0x0F, data[start : start + size])
        return True


class MemoryClient:
    """Connects over polling or a websocket, may upgrade, and keeps a log of what it was sent.

    `pongs` and `acks` False keep its answers back until `answer`; `slow` True stops it from reading.
    """

    def __init__(self, dial: Dial, auth: dict[str, Any], *, polling: bool = False) -> None:
        self._dial = dial
        self.auth = auth
        self.events: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        """All that came, by name, in order."""
        self.replies: dict[int, Any] = {}
        """What the server answered to `emit`, by id."""
        self.on_event: Callable[[dict[str, Any]], None] = lambda _event: None
        self.on_pong: Callable[[], None] = lambda: None
        self.on_ack: Callable[[int], None] = lambda _seq: None
        self.sid = ""
        """Of its Socket.IO connection, as the server names it."""
        self.connected = False
        self.refused: dict[str, Any] | None = None
        self.closed = False
        """Nothing more can come."""
        self.vanished = False
        self.pongs = True
        self.acks = True
        self.owed_pongs = 0
        self.owed_acks: list[int] = []
        self._slow = False
        self._sid = ""
        self._get: Http | None = None
        self._post: Http | None = None
        self._socket: Http | None = None
        self.polls = polling
        self._probed = False
        """The websocket has answered; what polling began comes to its end first, and what is to be sent waits."""
        self._kept: list[str] = []
        self._requests = 0
        self._emits = 0
        if polling:
            self._get = Http(dial, self._lost_poll)
            self._post = Http(dial, self._lost_poll)
            self._requests += 1
            self._get.request("GET", "/socket.io/?EIO=4&transport=polling", self._polled)
        else:
            self._socket = Http(dial, self._lost)
            self._socket.upgrade("/socket.io/?EIO=4&transport=websocket", self._opened, self._framed)

    # what it does

    def send(self, packet: str) -> None:
        """One Engine.IO packet, by whatever transport stands."""
        if self.closed or self.vanished:
            return
        if self._probed:
            self._kept.append(packet)
        elif self.polls and self._post is not None:
            self._requests += 1
            self._post.request("POST", self._target("polling"), self._posted, packet)
        elif self._socket is not None:
            self._socket.send_frame(1, packet.encode())

    def join(self, auth: dict[str, Any] | None = None) -> None:
        """Say CONNECT, as first or as somebody else."""
        self.auth = auth or self.auth
        self.refused = None
        self.send("40" + json.dumps(self.auth))

    def leave(self) -> None:
        """Say Socket.IO DISCONNECT; the engine stays."""
        self.connected = False
        self.send("41")

    def emit(self, name: str, data: object) -> int:
        """Ask for an ack, which `replies` will have under the number that comes back."""
        self._emits += 1
        self.send(f"42{self._emits}{json.dumps([name, data])}")
        return self._emits

    def ack(self, seq: int) -> None:
        self.on_ack(seq)
        self.send(f"43{seq}[]")

    def answer(self) -> None:
        """Give the pongs and acks that were kept back, and no longer keep any."""
        self.pongs = self.acks = True
        self.give_pongs()
        owed, self.owed_acks = self.owed_acks, []
        for seq in owed:
            self.ack(seq)

    def give_pongs(self) -> None:
        for _ in range(self.owed_pongs):
            self.on_pong()
            self.send("3")
        self.owed_pongs = 0

    @property
    def slow(self) -> bool:
        return self._slow

    @slow.setter
    def slow(self, slow: bool) -> None:
        self._slow = slow
        for http in (self._get, self._post, self._socket):
            if http is not None:
                http.wire.reads(not slow)

    def upgrade(self) -> None:
        """From polling to a websocket, as a stock client does at once."""
        self._socket = Http(self._dial, self._lost)
        self._socket.upgrade(self._target("websocket"), self._probe, self._framed)

    def close_engine(self) -> None:
        """Engine.IO CLOSE."""
        self.connected = False
        self.send("1")

    def close_frame(self) -> None:
        """A websocket's close handshake."""
        if self.polls or self._socket is None:
            self.hang_up()
        else:
            self.connected = False
            self._socket.send_frame(8, b"\x03\xe8")

    def hang_up(self) -> None:
        self._leave_wires(lambda wire: wire.hang_up())

    def reset(self) -> None:
        self._leave_wires(lambda wire: wire.reset())

    def vanish(self) -> None:
        """The machine is gone: neither answers nor a word that it went."""
        self.connected = False
        self.vanished = True
        for http in (self._get, self._post, self._socket):
            if http is not None:
                http.wire.reads(False)

    def _leave_wires(self, how: Callable[[Wire], None]) -> None:
        self.connected = False
        self.vanished = True  # it hears nothing any more
        for http in (self._get, self._post, self._socket):
            if http is not None:
                how(http.wire)

    # what it hears

    def _target(self, transport: str) -> str:
        return f"/socket.io/?EIO=4&transport={transport}&sid={self._sid}"

    def _lost(self) -> None:
        self.closed = True
        self.connected = False

    def _lost_poll(self) -> None:
        if self.polls and not self.vanished:  # a polling session outlives its connections
            self._lost()

    def _change_over(self) -> None:
        """From polling to the websocket, once nothing is on its way by polling."""
        if self._probed and not self._requests and self._socket is not None:
            self.polls = self._probed = False
            self._socket.send_frame(1, b"5")
            kept, self._kept = self._kept, []
            for packet in kept:
                self.send(packet)

    def _opened(self, status: int, _body: str) -> None:
        assert status == 101

    def _probe(self, status: int, body: str) -> None:
        if status == 101 and self._socket is not None:
            self._socket.send_frame(1, b"2probe")

    def _polled(self, status: int, body: str) -> None:
        self._requests -= 1
        if status != 200:
            if self.polls:
                self._lost()
            return
        for packet in body.split("\x1e"):
            self._packet(packet)
        self._change_over()
        if self.polls and not self._probed and not self.closed and self._get is not None:
            self._requests += 1
            self._get.request("GET", self._target("polling"), self._polled)

    def _posted(self, status: int, _body: str) -> None:
        self._requests -= 1
        self._change_over()
        if status != 200 and self.polls:
            self._lost()

    def _framed(self, opcode: int, data: bytes) -> None:
        if opcode == 1:
            self._packet(data.decode())
        elif opcode == 8:
            self.connected = False
            if self._socket is not None and not self.vanished:
                self._socket.send_frame(8, data[:2])

    def _packet(self, packet: str) -> None:
        if self.vanished:
            return
        kind, rest = packet[:1], packet[1:]
        if kind == "0":
            self._sid = json.loads(rest)["sid"]
            self.join()
        elif packet == "3probe":
            self._probed = True
            self._change_over()
        elif kind == "2":
            self.owed_pongs += 1
            if self.pongs:
                self.give_pongs()
        elif kind == "1":
            self._lost()
        elif kind == "4":
            self._message(rest)

    def _message(self, packet: str) -> None:
        kind, rest = packet[:1], packet[1:]
        if kind == "0":
            self.connected = True
            self.sid = json.loads(rest)["sid"]
        elif kind == "4":
            self.refused = json.loads(rest)
        elif kind == "1":
            self.connected = False
        elif kind in "23":
            start = rest.index("[")
            number, data = rest[:start], json.loads(rest[start:])
            if kind == "3":
                self.replies[int(number)] = data
            else:
                self._told(number, data[0], data[1])

    def _told(self, number: str, name: str, data: dict[str, Any]) -> None:
        self.log.append((name, data))
        if name == "whatsapp_status_update":
            self.snapshots.append(data)
        elif name == "whatsapp_connection_event":
            self.events.append(data)
            self.on_event(data)
            if self.acks and self.auth.get("acks"):
                self.ack(int(number))
            else:
                self.owed_acks.append(int(number))

    @property
    def seqs(self) -> list[int]:
        """As they came, repeats included."""
        return [event["seq"] for event in self.events]

    @property
    def first_seqs(self) -> list[int]:
        """Without repeats: what a client that drops ids it has seen makes of it."""
        return list(dict.fromkeys(self.seqs))
