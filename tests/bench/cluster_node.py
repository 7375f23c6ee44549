"""One node of `tests.bench.cluster`: the whole program, which publishes as fast as its events are confirmed.

It prints its addresses and the port on which it is told of confirmations; a line on its standard input says which keys
are its own, and who has the others; the end of its standard input ends it. The settings are the environment's.

One event of each key is on its way. Which node confirms it depends on where its socket is, so that the confirming node
tells the publishing one by a datagram: many keys each, for what that costs is measured too.
"""

from __future__ import annotations

import array
import asyncio
import json
import sys
from collections import defaultdict
from typing import Any, Final

import uvloop

from roundtrip.app import Backend
from roundtrip.delivery.metrics import DeliveryCounters
from roundtrip.delivery.state import Delivery
from roundtrip.environment import load
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.runtime import GarbageCollection
from tests.bench.run import start_publishing

EVENT: Final = Connected("+15550100", "Ada Lovelace", False)
"""Of a type whose traces are sampled: those that report trouble are always kept."""
LINK: Final = "0190b0f05f647b1a9c595f2b8f1f9c3e"
MOST: Final = 5_000
"""Keys in one datagram."""


class Publisher(asyncio.DatagramProtocol):
    """Publishes the next event of a key when its last one was confirmed, here or elsewhere."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._transport: Any = None
        self._keys: dict[int, BotKey] = {}
        self._ports: list[int] = []
        self._confirmed: defaultdict[int, list[int]] = defaultdict(list)
        """By the number of the node that published."""
        self._running = True

    def begin(self, number: int, ports: list[int], keys: int) -> None:
        """This is node `number` of those that listen on `ports`; key n belongs to node n % nodes."""
        self._ports = ports
        self._keys = {n: BotKey(f"user-{n}", "bot") for n in range(number, keys, len(ports))}
        for n in self._keys:
            self._publish(n)

    def end(self) -> None:
        self._running = False

    def _publish(self, n: int) -> None:
        start_publishing(self._backend.courier, self._keys[n], LINK, EVENT)

    def confirmed(self, user_id: str) -> None:
        """An event was confirmed at this node."""
        if not self._running or not self._ports:
            return
        n = int(user_id[5:])
        if not self._confirmed:
            asyncio.get_running_loop().call_soon(self._tell)
        self._confirmed[n % len(self._ports)].append(n)

    def _tell(self) -> None:
        confirmed, self._confirmed = self._confirmed, defaultdict(list)
        for node, keys in confirmed.items():
            if keys and keys[0] in self._keys:
                for n in keys:
                    self._publish(n)
                continue
            for first in range(0, len(keys), MOST):
                packed = array.array("I", keys[first : first + MOST]).tobytes()
                self._transport.sendto(packed, ("127.0.0.1", self._ports[node]))

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._running:
            for n in array.array("I", data):
                self._publish(n)


async def main() -> None:
    backend = Backend(load())
    await backend.start()
    loop = asyncio.get_running_loop()
    transport, publisher = await loop.create_datagram_endpoint(lambda: Publisher(backend), local_addr=("127.0.0.1", 0))
    delivered = DeliveryCounters.delivered

    def counted(self: DeliveryCounters, delivery: Delivery) -> None:
        delivered(self, delivery)
        publisher.confirmed(delivery.event.key.user_id)

    DeliveryCounters.delivered = counted  # type: ignore[method-assign]  # the bench looks on
    GarbageCollection(lambda _seconds: None).start()
    port = transport.get_extra_info("sockname")[1]
    print(json.dumps({"url": backend.url, "admin": backend.admin_url, "port": port}), flush=True)
    told = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    publisher.begin(told["number"], told["ports"], told["keys"])
    await loop.run_in_executor(None, sys.stdin.read)
    publisher.end()
    await backend.stop()


if __name__ == "__main__":
    uvloop.run(main())
