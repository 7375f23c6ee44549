"""Whether a storm of link starts slows down the deliveries of others: `python -m tests.bench.storm`.

The whole program with the real neonize against the stand-in, each in a process of its own. 100 sockets get events all
the time; their time from publish to acknowledgement is measured first in peace, then while twenty accounts are linked
at once, each in a worker process, until all are connected.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from roundtrip.app import Backend
from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.delivery.state import Delivery
from roundtrip.drivers.neonize.driver import NeonizeDriver
from roundtrip.events import Degraded
from roundtrip.identity import BotKey
from roundtrip.settings import Settings
from tests.bench.generator import command as load_command
from tests.bench.run import line, start, start_publishing, stop
from tests.whatsapp.stand_in import StandIn, stand_in

GOOD = 100
LINKS = 20


class Clock(DeliveryCounters):
    """Notes, of each acknowledged event of a good client, how long it took, in milliseconds."""

    found: list[float] = []  # noqa: RUF012  # one list for the one run

    def delivered(self, delivery: Delivery) -> None:
        super().delivered(delivery)
        if delivery.event.key.user_id.startswith("user-"):
            Clock.found.append(delivery.ack_ns / 1e6 - delivery.event.created_at)


async def deliver(backend: Backend) -> None:
    """An event to every good client, twenty times a second, for ever."""
    while True:
        for number in range(GOOD):
            start_publishing(backend.courier, BotKey(f"user-{number}", "bot"), "link", Degraded())
        await asyncio.sleep(0.05)


async def serve(proxy: str, *worker: str) -> None:
    """The backend's process: prints its address, then the times found since the last line, for each line it reads."""
    with tempfile.TemporaryDirectory(prefix="roundtrip-storm-") as folder:
        settings = Settings(data_dir=Path(folder), auth="trusted", port=0, admin_port=0, log_level="ERROR")
        backend = Backend(settings, NeonizeDriver(proxy, worker_command=worker))
        await backend.start()
        backend.courier.confirmations._metrics = Clock(
            backend.telemetry.metrics, backend.telemetry.event_spans.exemplar
        )
        stream = asyncio.ensure_future(deliver(backend))
        print(backend.url, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(Clock.found), flush=True)
            Clock.found = []
        stream.cancel()
        await backend.stop()


async def call(session: aiohttp.ClientSession, url: str, method: str, number: int) -> Any:
    headers = {"X-User-Id": f"linker-{number}"}
    async with session.request(method, f"{url}/api/bots/bot/link", headers=headers) as response:
        return await response.json()


async def link_all(url: str, whatsapp: StandIn) -> float:
    """Seconds until all twenty accounts are connected."""
    began = time.monotonic()
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(call(session, url, "PUT", number) for number in range(LINKS)))

        async def link(number: int) -> None:
            scanned = False
            while (snapshot := await call(session, url, "GET", number))["state"] != "connected":
                if "qr" in snapshot and not scanned:
                    scanned = True
                    await whatsapp.scan(snapshot["qr"], f"4474413958{number:02d}", f"Person {number}")
                await asyncio.sleep(0.2)

        await asyncio.gather(*(link(number) for number in range(LINKS)))
    return time.monotonic() - began


async def main() -> None:
    async with stand_in() as whatsapp:
        command = (sys.executable, "-m", "tests.bench.storm", whatsapp.proxy_url, *whatsapp.worker_command)
        serving = await asyncio.to_thread(partial(start, None, *command, env=whatsapp.environment))

        async def times() -> list[float]:
            assert serving.stdin is not None
            serving.stdin.write("\n")
            serving.stdin.flush()
            found: list[float] = json.loads(await asyncio.to_thread(line, serving))
            return found

        url = await asyncio.to_thread(line, serving)
        load = await asyncio.to_thread(start, 1, *load_command(url, GOOD))
        try:
            await asyncio.to_thread(line, load)
            await asyncio.sleep(2)
            await times()
            await asyncio.sleep(8)
            peace = await times()
            async with asyncio.timeout(90):
                took = await link_all(url, whatsapp)
            storm = await times()
        finally:
            await asyncio.to_thread(stop, load)
            await asyncio.to_thread(stop, serving)
    print(f"{LINKS} accounts linked and connected in {took:.1f} s")
    for name, found in (("in peace", peace), ("while they start", storm)):
        cuts = statistics.quantiles(found, n=100)
        print(f"{name:<18} p50 {cuts[49]:>6.1f} ms   p99 {cuts[98]:>6.1f} ms   of {len(found):,} events")
    ratio = statistics.quantiles(storm, n=100)[98] / statistics.quantiles(peace, n=100)[98]
    print(f"p99 while they start, to peace: {ratio:.2f}")


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]) if len(sys.argv) > 1 else main())
