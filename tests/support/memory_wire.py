"""A connection without a network: aiohttp's server protocol on one end, a test on the other, the loop in between.

Nothing here waits for a kernel, so that a run has one order. `tests/model/test_stand_ins.py` holds it to what
asyncio's own TCP transport does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

HIGH_WATER: Final = 64 * 1024
"""Bytes past which the protocol is told to pause, as asyncio does by default."""


class NoSocket:
    """What is asked of the socket itself: options, which change nothing here."""

    family = socket.AF_UNIX

    def setsockopt(self, *_option: object) -> None:
        pass


class MemoryTransport(asyncio.Transport):
    """The server's end. The other end is `said`, `reads`, `hang_up` and `reset`.

    A reader that reads gets every byte in the same turn; one that does not lets them gather in the write buffer.
    """

    def __init__(self, protocol: Any, deliver: Callable[[bytes], None], gone: Callable[[], None]) -> None:
        """`deliver` gets what the server wrote, `gone` is told when nothing more will come."""
        super().__init__({"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 80), "socket": NoSocket()})
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._deliver = deliver
        self._gone = gone
        self._buffer = bytearray()
        self._inbox: list[bytes] = []
        self._closing = False
        self._lost = False
        self._paused = False
        self._reading_paused = False
        self._reads = True
        protocol.connection_made(self)

    # the server's side

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._lost:
            return
        self._buffer += data
        self._flush()
        if not self._paused and len(self._buffer) > HIGH_WATER:
            self._paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._buffer:
                self._lose(None)

    def abort(self) -> None:
        self._closing = True
        self._buffer.clear()
        self._lose(None)

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        inbox, self._inbox = self._inbox, []
        for data in inbox:
            self.said(data)

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        raise NotImplementedError

    # the other side

    def said(self, data: bytes) -> None:
        """The client wrote this; the server has it in a later turn."""
        self._loop.call_soon(self._hear, data)

    def reads(self, yes: bool) -> None:
        """Whether the client takes what the server writes."""
        self._reads = yes
        self._flush()

    def hang_up(self) -> None:
        """The client closed its end in good order."""
        self._loop.call_soon(self._eof)

    def reset(self) -> None:
        """The client's machine answered with a reset."""
        self._closing = True
        self._buffer.clear()
        self._lose(ConnectionResetError("reset by the client"))

    def _hear(self, data: bytes) -> None:
        if self._closing:
            return
        if self._reading_paused:
            self._inbox.append(data)
        else:
            self._protocol.data_received(data)

    def _eof(self) -> None:
        if not self._closing and not self._protocol.eof_received():
            self.close()

    def _flush(self) -> None:
        if not self._reads or not self._buffer or self._lost:
            return
        data = bytes(self._buffer)
        self._buffer.clear()
        self._deliver(data)
        if self._paused:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing and not self._buffer:
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)
        self._gone()
