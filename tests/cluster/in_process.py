"""Nodes on one real PostgreSQL in the test's own process: all that stores, routes and delivers, with fake clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from roundtrip.backoff import Backoff
from roundtrip.cluster.shared_store import SharedStore
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.wire import Confirmable, Frame
from roundtrip.events import Connected, Payload
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from roundtrip.outbox.records import LedgerEntry, MissReason, StoredEvent
from roundtrip.settings import Settings
from roundtrip.sockets.peer import Peer
from roundtrip.sockets.registry import Registry
from tests.outbox.contract.base import until
from tests.support.sockets import Notes, idle

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", False)


class Client:
    """A socket without a network, that confirms what it is sent when `acking`."""

    def __init__(self, node: Node, sid: str, key: BotKey, *, must_ack: bool, acking: bool) -> None:
        self.node = node
        self.sid = sid
        self.key = key
        self.must_ack = must_ack
        self.acking = acking
        self.live = self.closed = False
        self.backlog = 0
        self.transport = "websocket"
        self.connected_at = time.monotonic()
        self.frames: list[dict[str, Any]] = []
        self.replaying: asyncio.Task[int] | None = None

    def send(self, frame: Frame) -> MissReason | None:
        if self.closed:
            return MissReason.SEND_FAILED
        name, payload = json.loads(frame.payload[frame.payload.index(b"[") :])
        if name == "whatsapp_connection_event":
            self.frames.append(payload)
            if self.acking:
                asyncio.get_running_loop().call_soon(self.ack, payload["seq"])
        return None

    def has(self, seq: int) -> bool:
        return seq in self.seqs

    def ack(self, seq: int) -> None:
        if not self.closed:
            self.node.courier.confirmations.acked(self, seq)

    def confirm(self, sent: Confirmable) -> None:
        if self.acking and not self.must_ack:
            asyncio.get_running_loop().call_soon(self.node.courier.confirmations.received, self, [sent])

    @property
    def seqs(self) -> list[int]:
        return [frame["seq"] for frame in self.frames]


class Node:
    """One node. `notes` are its metrics and spans."""

    def __init__(self, url: str, name: str, folder: Path, *, lease: float = 5.0, ack_timeout: float = 5.0) -> None:
        settings = Settings(
            store=SecretStr(url),
            node_id=name,
            data_dir=folder,
            lease=lease,
            auth="trusted",
            whatsapp_driver="simulated",
        )
        self.name = name
        self.store = SharedStore(settings)
        self.outbox = self.store.outbox
        self.registry = Registry()
        self.notes = Notes()
        self.faults = Faults(allowed=True)
        self.courier = Courier(
            self.outbox,
            self.registry,
            self.notes,
            self.notes,
            self.faults,
            event_ttl=600.0,
            ack_timeout=ack_timeout,
            backoff=Backoff(0.2, 1.0),
        )
        self.replayer = Replayer(self.outbox, self.courier, self.notes, idle, watermark=1 << 19)
        self._stack = AsyncExitStack()
        self._sids = 0

    async def start(self) -> None:
        self._stack.push_async_callback(self.store.leave)
        await self.store.join()
        await self.outbox.start()
        self._stack.push_async_callback(self.outbox.close)
        self._stack.callback(self.courier.close)
        await self.store.share(self.registry, self.courier, self._stack)

    async def stop(self) -> None:
        for peer in self.registry.all():
            self.leave(cast("Client", peer))
        await self._stack.aclose()

    def connect(self, key: BotKey = KEY, *, must_ack: bool = True, acking: bool = True) -> Client:
        """A client, whose replay begins."""
        self._sids += 1
        client = Client(self, f"{self.name}-{self._sids}", key, must_ack=must_ack, acking=acking)
        self.registry.add(cast("Peer", client))
        client.replaying = asyncio.create_task(self.replayer.run(client, self.courier.joined(client), None))
        return client

    async def join(self, key: BotKey = KEY, **options: bool) -> Client:
        """A client that is up to date."""
        client = self.connect(key, **options)
        await until(lambda: client.live)
        return client

    def leave(self, client: Client) -> None:
        client.closed = True
        if self.registry.remove(cast("Peer", client)):
            self.courier.left(client)

    async def publish(self, payload: Payload = CONNECTED, key: BotKey = KEY) -> StoredEvent:
        return await self.courier.publish(key, "link", payload)

    async def entry(self, event: StoredEvent) -> LedgerEntry:
        entry = await self.outbox.find(event.id)
        assert entry is not None
        return entry


@asynccontextmanager
async def nodes(url: str, folder: Path, *names: str, **options: float) -> AsyncIterator[list[Node]]:
    """Nodes that are alive at once; they stop in the end."""
    async with AsyncExitStack() as stack:
        started = []
        for name in names:
            node = Node(url, name, folder / name, **options)
            stack.push_async_callback(node.stop)
            await node.start()
            started.append(node)
        yield started
