"""What several tests of telemetry use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from textwrap import dedent
from typing import Any

from roundtrip.delivery.state import Delivery, DeliveryState
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Attempt, Mode, StoredEvent

KEY = BotKey("user", "bot")


class Drops:
    def __init__(self) -> None:
        self.count = 0.0
        self._lock = threading.Lock()

    def __call__(self, number: float = 1) -> None:
        with self._lock:
            self.count += number


def acked(traceparent: str) -> Delivery:
    now = time.time_ns()
    event = StoredEvent(
        KEY, 1, "0193a2b4-7c11-7abc-8def-0123456789ab", EventType.CONNECTED, "link", now // 10**6, 0, traceparent, b"{}"
    )
    delivery = Delivery(event, Mode.LIVE, now)
    delivery.started_ns = delivery.ack_ns = now
    delivery.state = DeliveryState.ACKED
    delivery.finish(Attempt(at=now // 10**6, mode=Mode.LIVE, sockets=1))
    return delivery


def eventually(condition: Callable[[], Any], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def tree(text: str) -> str:
    """The text of an expected tree of spans, as `render` writes one."""
    return dedent(text).strip()
