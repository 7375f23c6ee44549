"""Whether bad clients of one key slow down the events of others: `python -m tests.bench.neighbours`.

200 well-behaved sockets get an event each, over and over; their time from publish to acknowledgement is measured
first with nobody else, then beside sixteen tabs that never read, a client that reconnects all the time, and a half
open one. Prints both p50 and p99, and the ratio.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

import uvloop

from roundtrip.events import Connected, Degraded
from roundtrip.identity import BotKey
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.bench.generator import command
from tests.bench.run import line, start, stop
from tests.support.sockets import Stage, stage

GOOD = 200
ROUNDS = 40
BAD = BotKey("bad", "bot")


async def measure(s: Stage) -> list[float]:
    """Milliseconds from publish to acknowledgement, of every event of the good clients."""
    s.notes.settled_.clear()
    for _ in range(ROUNDS):
        await asyncio.gather(
            *(s.courier.publish(BotKey(f"user-{number}", "bot"), "link", Degraded()) for number in range(GOOD))
        )
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    good = [delivery for delivery in s.notes.settled_ if delivery.event.key != BAD]
    return [delivery.ack_ns / 1e6 - delivery.event.created_at for delivery in good]


async def misbehave(s: Stage, url: str) -> None:
    """Sixteen sockets that never read while their key gets long events, and one that comes and goes."""
    host, port = url.removeprefix("http://").split(":")
    tabs: list[asyncio.StreamWriter] = []
    long = Connected("+15550100", "A" * 2000, False)
    while True:
        for tab in tabs:
            tab.close()
        tabs = []
        for _ in range(16):
            _, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(
                f"GET /socket.io/?EIO=4&transport=websocket&userId=bad&botId=bot HTTP/1.1\r\nHost: {host}:{port}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n".encode()
            )
            writer.write(b"\x81\x82\0\0\0\x0040")
            tabs.append(writer)
        for _ in range(20):
            await s.courier.publish(BAD, "link", long)
            await asyncio.sleep(0.02)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="roundtrip-bench-") as folder:
        outbox = SqliteOutbox(Path(folder))
        await outbox.start()
        async with stage(outbox) as s:
            load = await asyncio.to_thread(start, 1, *command(s.url, GOOD))
            try:
                await asyncio.to_thread(line, load)
                idle = await measure(s)
                bad = asyncio.ensure_future(misbehave(s, s.url))
                await asyncio.sleep(1)
                beside = await measure(s)
                bad.cancel()
                await asyncio.gather(bad, return_exceptions=True)
            finally:
                await asyncio.to_thread(stop, load)
        await outbox.close()
    for name, found in (("alone", idle), ("beside bad clients", beside)):
        cuts = statistics.quantiles(found, n=100)
        print(f"{name:<20} p50 {cuts[49]:>6.1f} ms   p99 {cuts[98]:>6.1f} ms   of {len(found):,} events")
    ratio = statistics.quantiles(beside, n=100)[98] / statistics.quantiles(idle, n=100)[98]
    print(f"p99 beside bad clients, to alone: {ratio:.2f}")


if __name__ == "__main__":
    uvloop.run(main())
