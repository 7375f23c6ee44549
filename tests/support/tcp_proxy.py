"""A TCP proxy on loopback whose network can be made to fail: cut, delayed, or silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TcpProxy:
    """Attributes hold for what is forwarded from now on, over every connection."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        """Where new connections lead."""
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece takes longer, in either direction."""
        self.deaf = False
        """What the server answers is thrown away."""
        self.silent = False
        """Nothing gets through in either direction, and nobody is told."""
        self.refusing = False
        """New connections are closed at once."""
        self.forwarded = 0
        """Bytes that reached the server."""
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, server_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._forward(reader, server_writer, to_server=True),
                self._forward(server_reader, writer, to_server=False),
            )
        except asyncio.CancelledError:
            return
        finally:
            self._pairs.discard(pair)
            for side in pair:
                side.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool) -> None:
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.silent or (self.deaf and not to_server):
                    continue
                writer.write(piece)
                if to_server:
                    self.forwarded += len(piece)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    proxy = TcpProxy(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
