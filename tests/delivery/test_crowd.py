"""One key with ten thousand pending events and a client that never acknowledges: the others do not notice."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import pytest

from roundtrip.backoff import Backoff
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.wire import Confirmable, Frame, Miss
from roundtrip.events import Connected
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from tests.support.sockets import Faults, Notes, idle

CROWDED, OTHER = BotKey("crowded", "bot"), BotKey("other", "bot")
CONNECTED = Connected("+15550100", "Ada", False)
MANY = 10_000


class Silent:
    """A client that takes everything and confirms nothing."""

    must_ack = True
    live = closed = False
    backlog = 0

    def __init__(self, sid: str, key: BotKey) -> None:
        self.sid = sid
        self.key = key
        self.count = 0

    def send(self, _frame: Frame) -> MissReason | None:
        self.count += 1
        return None

    def has(self, seq: int) -> bool:
        return seq <= self.count

    def confirm(self, sent: Confirmable) -> None:
        pass


class Present:
    def __init__(self) -> None:
        self.peers: dict[BotKey, list[Silent]] = {CROWDED: [], OTHER: []}

    def of(self, key: BotKey) -> Any:
        return self.peers[key]

    def why_missing(self, _key: BotKey) -> Miss:
        return Miss(MissReason.NEVER_CONNECTED)

    def missed(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.alone  # it measures time
async def test_many_deadlines_retries_and_misses_of_one_key_delay_no_other(tmp_path: Path) -> None:
    outbox, present, notes = SqliteOutbox(tmp_path), Present(), Notes()
    courier = Courier(
        outbox, present, notes, notes, Faults(), event_ttl=600, ack_timeout=2.0, backoff=Backoff(0.2, 0.2)
    )
    replayer = Replayer(outbox, courier, notes, idle, watermark=1 << 30)
    await outbox.start()
    for _ in range(MANY // 1000):
        await asyncio.gather(*(courier.publish(CROWDED, "link", CONNECTED) for _ in range(1000)))
    notes.rounds.clear()
    taken: dict[str, list[float]] = {"replay": [], "deadlines and retry": [], "leaving": []}
    phase = "replay"

    async def join(sid: str, key: BotKey) -> Silent:
        peer = Silent(sid, key)
        present.peers[key].append(peer)
        await replayer.run(peer, courier.joined(peer), None)
        return peer

    async def others() -> None:
        """An event of another key, from its publication to its client, again and again."""
        peer = await join("other", OTHER)
        while True:
            started = time.perf_counter()
            event = await courier.publish(OTHER, "link", CONNECTED)
            taken[phase].append(time.perf_counter() - started)
            courier.confirmations.acked(peer, event.seq)
            await asyncio.sleep(0.002)

    gc.collect()
    gc.disable()  # as good as what the program sets; its pauses are another test's
    measuring = asyncio.ensure_future(others())
    try:
        crowd = await join("crowd", CROWDED)
        assert crowd.count >= MANY
        phase = "deadlines and retry"
        async with asyncio.timeout(60):
            while crowd.count < 2 * MANY + 1:
                await asyncio.sleep(0.01)
        phase = "leaving"
        crowd.closed = True
        present.peers[CROWDED].clear()
        courier.left(crowd)
        async with asyncio.timeout(60):
            while sum(it.count for it in notes.rounds if it.attempt.reason is MissReason.JUST_DISCONNECTED) < MANY:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
        measuring.cancel()
        courier.close()
        await outbox.close()
    medians = {phase: sorted(times)[len(times) // 2] for phase, times in taken.items()}
    high = {phase: sorted(times)[int(len(times) * 0.95)] for phase, times in taken.items()}
    assert max(high.values()) <= 0.06, (high, medians)
    timeouts = [misses.count for misses in notes.rounds if misses.attempt.reason is MissReason.ACK_TIMEOUT]
    assert sum(timeouts) >= MANY
    assert len(timeouts) <= 6, "one line per round, not per event"
