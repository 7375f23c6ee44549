"""Courier and replay over an outbox in memory, with fake clients, on a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from roundtrip.backoff import Backoff
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.metrics import DeliveryMetrics
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.wire import Confirmable, Frame, Miss
from roundtrip.events import Connected, EventType, Payload
from roundtrip.identity import BotKey
from roundtrip.outbox.memory import MemoryOutbox
from roundtrip.outbox.records import Attempt, LedgerEntry, MissReason, Outcome, StoredEvent
from roundtrip.watched_clock import WatchedClock
from tests.support.sockets import Faults, Notes, idle
from tests.support.stepped_clock import SteppedClock
from tests.support.stepped_loop import SteppedLoop

KEY = BotKey("user", "bot")
CONNECTED = Connected("+15550100", "Ada", False)
ACK_TIMEOUT = 5.0
TTL = 600.0
WATERMARK = 1 << 19


def stored(seq: int) -> StoredEvent:
    body = json.dumps({"id": f"id-{seq}", "seq": seq, "type": "whatsapp_qr"}).encode()
    return StoredEvent(KEY, seq, f"id-{seq}", EventType.QR, "link", 0, 1, "", body)


class Client:
    """A socket without a network, that takes everything and confirms what the test wants."""

    def __init__(self, stage: Stage, sid: str, *, must_ack: bool) -> None:
        self.stage = stage
        self.sid = sid
        self.key = KEY
        self.must_ack = must_ack
        self.live = self.closed = False
        self.backlog = 0
        self.unread = 0
        """Bytes that each event leaves unread."""
        self.frames: list[dict[str, Any]] = []
        self.receipts_due: list[Confirmable] = []

    def send(self, frame: Frame) -> MissReason | None:
        name, payload = json.loads(frame.payload[frame.payload.index(b"[") :])
        if name == "whatsapp_connection_event":
            self.frames.append(payload)
            self.backlog += self.unread
        return None

    def has(self, seq: int) -> bool:
        return any(frame["seq"] == seq for frame in self.frames)

    def confirm(self, sent: Confirmable) -> None:
        self.receipts_due.append(sent)

    @property
    def received_events(self) -> list[tuple[int, int]]:
        """`seq` and attempt of each frame."""
        return [(frame["seq"], frame["attempt"]) for frame in self.frames]

    def ack(self, seq: int) -> None:
        self.stage.call(lambda: self.stage.courier.confirmations.acked(self, seq))

    def receipt(self) -> None:
        receipts_due, self.receipts_due = self.receipts_due, []
        self.stage.call(lambda: self.stage.courier.confirmations.received(self, receipts_due))

    def leave(self) -> None:
        self.closed = True
        del self.stage.clients[self.sid]
        self.stage.call(lambda: self.stage.courier.left(self))


class Published:
    """An event, and what the outbox has of it whenever one asks."""

    def __init__(self, stage: Stage, event: StoredEvent) -> None:
        self._stage = stage
        self.event = event

    @property
    def entry(self) -> LedgerEntry:
        entry = self._stage.loop.run(self._stage.outbox.find(self.event.id))
        assert entry is not None
        return entry

    @property
    def outcome(self) -> Outcome:
        return self.entry.outcome

    @property
    def pending(self) -> bool:
        return self.outcome is Outcome.PENDING

    @property
    def resolved_at(self) -> int | None:
        return self.entry.resolved_at

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.entry.attempts


class Stage:
    """Courier and replay over an outbox in memory, with one clock for all of them."""

    def __init__(self, metrics: DeliveryMetrics | None = None) -> None:
        self.metrics = metrics
        self.loop = SteppedLoop()
        self.clock: SteppedClock = self.loop.clock
        self.watch = WatchedClock(self.clock)
        self.notes = Notes()
        self.clients: dict[str, Client] = {}
        self.loop.run(self._start())

    async def _start(self) -> None:
        self.outbox = MemoryOutbox(clock=self.clock)
        self.courier = Courier(
            self.outbox,
            self,
            self.notes,
            self.metrics or self.notes,
            Faults(),
            event_ttl=TTL,
            ack_timeout=ACK_TIMEOUT,
            backoff=Backoff(2.0, 60.0),
            clock=self.watch,
        )
        self.replayer = Replayer(self.outbox, self.courier, self.notes, idle, watermark=WATERMARK, clock=self.watch)
        self.watch.on_step += [self.outbox.moved, self.courier.moved]

    def of(self, key: BotKey) -> Any:
        return self.clients.values() if key == KEY else ()

    def why_missing(self, _key: BotKey) -> Miss:
        return Miss(MissReason.NEVER_CONNECTED)

    def missed(self, *_: object) -> None:
        pass

    def join_slowly(self, sid: str = "slow", unread: int = 0) -> Client:
        """A client that reads nothing yet: its replay waits with one missed event in hand, and more is held back."""
        self.publish()
        client = self.clients[sid] = Client(self, sid, must_ack=True)
        client.backlog, client.unread = WATERMARK + 1, unread
        self.loop.create_task(self.replayer.run(client, self.courier.joined(client), None))
        self.pass_time(0.1)
        return client

    def join(self, sid: str = "one", *, must_ack: bool = True, replay: bool = True) -> Client:
        client = self.clients[sid] = Client(self, sid, must_ack=must_ack)
        channel = self.courier.joined(client)
        replaying = self.loop.create_task(self.replayer.run(client, channel, None))
        while replay and not replaying.done():
            self.loop.advance(0.01)
        return client

    def publish(self, payload: Payload = CONNECTED, expires_at: int | None = None) -> Published:
        event = self.loop.run(self.courier.publish(KEY, "link", payload, expires_at=expires_at))
        return Published(self, event)

    def call(self, act: Callable[[], object]) -> None:
        """Something happens on the loop."""

        async def acting() -> None:
            act()

        self.loop.run(acting())

    def pass_time(self, seconds: float) -> None:
        """Time passes as it does: timers run on time."""
        while seconds > 0:
            self.loop.advance(min(seconds, 0.1))
            seconds -= 0.1
