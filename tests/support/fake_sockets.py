"""Sockets without a network, and their map, as delivery sees them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from roundtrip.delivery.wire import Confirmable, Frame, Miss
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason

reached: Counter[str] = Counter()
"""How often each interesting branch was reached in the present run."""

KEYS = (BotKey("a", "1"), BotKey("a", "2"), BotKey("b", "1"))


class FakeSocket:
    """A client without a network. `half_open` takes what is sent and never answers; `slow` takes nothing."""

    def __init__(self, sid: str, key: BotKey, *, must_ack: bool) -> None:
        self.sid = sid
        self.key = key
        self.must_ack = must_ack
        self.live = False
        self.closed = False
        self.backlog = 0
        self.unread = 0
        """Bytes that each event leaves unread."""
        self.slow = False
        self.half_open = False
        self.seqs: list[int] = []
        """First sendings, in order."""
        self.unreceipted: list[Confirmable] = []
        self.sent_ids: set[str] = set()
        self.on_event: Callable[[str], None] = lambda _id: None

    def send(self, frame: Frame) -> MissReason | None:
        if self.closed:
            return MissReason.SEND_FAILED
        if self.slow:
            reached["slow"] += 1
            self.closed = True  # as a real one, which is closed for it
            return MissReason.QUEUE_FULL
        name, payload = json.loads(frame.payload[frame.payload.index(b"[") :])
        if name != "whatsapp_connection_event":
            return None
        self.on_event(payload["id"])
        self.backlog += self.unread
        reached["replayed" if payload["replayed"] else "live"] += 1
        if payload["id"] not in self.sent_ids:
            self.sent_ids.add(payload["id"])
            self.seqs.append(payload["seq"])
        else:
            assert payload["attempt"] > 1
            reached["retry"] += 1
        return None

    def has(self, seq: int) -> bool:
        return seq in self.seqs

    def confirm(self, sent: Confirmable) -> None:
        self.unreceipted.append(sent)


class FakeSockets:
    def __init__(self) -> None:
        self.by_key: dict[BotKey, dict[str, FakeSocket]] = {key: {} for key in KEYS}

    def of(self, key: BotKey) -> Any:
        return self.by_key[key].values()

    def why_missing(self, key: BotKey) -> Miss:
        return Miss(MissReason.NEVER_CONNECTED)

    def missed(self, key: BotKey, event: str, event_id: str, miss: Miss) -> None:
        pass
