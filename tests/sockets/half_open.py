"""A TCP connection that becomes half open, played inside a network namespace of its own: `unshare --net python -m …`.

The namespace's loopback goes down, so packets vanish without a word, as when a phone loses its network. Prints what
happened as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess

from roundtrip.events import Connected
from roundtrip.identity import BotKey
from tests.support.node_client import node_client
from tests.support.py_client import eventually
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", True)


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


async def main() -> None:
    loopback("up")
    auth = {"userId": "user", "botId": "bot", "acks": True}
    async with stage(ping_interval=1, ping_timeout=1, ack_timeout=0.5) as s, node_client(s.url, auth) as client:
        await client.heard("status")
        await eventually(lambda: s.registry.all()[0].transport == "websocket")
        loopback("down")
        event = await s.courier.publish(KEY, "link", CONNECTED)
        await eventually(lambda: s.notes.disconnects, within=15)
        mapped_while_away = len(s.registry)
        loopback("up")
        heard = await client.event("whatsapp_connected", within=20)
        await eventually(lambda: s.notes.settled_)
        print(
            json.dumps(
                {
                    "disconnects": s.notes.disconnects[:1],
                    "reasons": [attempt.reason for attempt in s.notes.missed_],
                    "mapped_while_away": mapped_while_away,
                    "same_event": heard["id"] == event.id,
                    "replayed": heard["replayed"],
                    "outcome": s.notes.settled_[0].outcome.wire,
                }
            )
        )


if __name__ == "__main__":
    asyncio.run(main())
