"""Bare python-socketio on aiohttp, doing only the emit and the acknowledgement. What Roundtrip is measured against.

`python -m tests.bench.peers.bare SOCKETS SECONDS` prints its port, waits for SOCKETS sockets and a line on
standard input, keeps one event in flight for each, and prints the acknowledged events per second as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import socketio
from aiohttp import web

PAYLOAD = {
    "id": "0190b0f0-5f64-7b1a-9c59-5f2b8f1f9c3e",
    "seq": 1,
    "type": "whatsapp_connected",
    "userId": "user-1",
    "botId": "bot",
    "linkId": "0190b0f05f647b1a9c595f2b8f1f9c3e",
    "timestamp": "2026-01-01T00:00:00.000Z",
    "replayed": False,
    "attempt": 1,
    "phoneNumber": "+15550100",
    "displayName": "Ada Lovelace",
    "first": False,
    "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
}


async def main(sockets: int, seconds: float) -> None:
    server = socketio.AsyncServer(async_mode="aiohttp", cors_allowed_origins="*")
    app = web.Application()
    server.attach(app)
    acked = 0
    running = False
    sids: list[str] = []

    async def emit(sid: str) -> None:
        def done(*_: Any) -> None:
            nonlocal acked
            acked += 1
            if running:
                tasks.add(task := asyncio.ensure_future(emit(sid)))
                task.add_done_callback(tasks.discard)

        await server.emit("whatsapp_connection_event", PAYLOAD, to=sid, callback=done)

    tasks: set[asyncio.Future[None]] = set()

    async def connect(sid: str, _environ: Any, _auth: Any) -> None:
        sids.append(sid)

    server.on("connect", connect)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert len(sids) == sockets, (len(sids), sockets)
    running = True
    await asyncio.gather(*(emit(sid) for sid in sids))
    await asyncio.sleep(0.5)
    acked, start = 0, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = acked / (time.perf_counter() - start)
    running = False
    print(json.dumps({"rate": rate}), flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
