"""The courier's small parts: deadlines, retries, frames, channels."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.backoff import Backoff
from roundtrip.delivery.inflight import BACKLOG, REMEMBERED, Backlog, KeyInFlight
from roundtrip.delivery.spans import Delivery
from roundtrip.delivery.wire import event_frame, websocket_frame
from roundtrip.events import EventType
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Mode, StoredEvent

KEY = BotKey("user", "bot")


def stored(seq: int) -> StoredEvent:
    body = json.dumps({"id": f"id-{seq}", "seq": seq, "type": "whatsapp_qr"}).encode()
    return StoredEvent(KEY, seq, f"id-{seq}", EventType.QR, "link", 0, 1, "", body)


@given(st.integers(1, 10_000))
def test_a_delay_grows_up_to_its_cap_and_is_never_less_than_half(failures: int) -> None:
    delay = Backoff(1.0, 60.0).delay(failures)
    full = min(60.0, 2.0 ** min(failures - 1, 16))
    assert full / 2 <= delay <= full


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_has_the_length_that_the_standard_wants(length: int) -> None:
    frame = websocket_frame(b"x" * length)
    assert frame[0] == 0x81
    if length < 126:
        assert (frame[1], len(frame)) == (length, length + 2)
    elif length < 65_536:
        assert (frame[1], int.from_bytes(frame[2:4], "big"), len(frame)) == (126, length, length + 4)
    else:
        assert (frame[1], int.from_bytes(frame[2:10], "big"), len(frame)) == (127, length, length + 10)


def test_an_events_frame_asks_for_an_ack_under_its_seq_and_says_how_it_is_sent() -> None:
    frame = event_frame(stored(7), Mode.REPLAY, 3)
    assert frame.payload.startswith(b"427[")
    name, payload = json.loads(frame.payload[3:])
    assert name == "whatsapp_connection_event"
    assert payload == {"id": "id-7", "seq": 7, "type": "whatsapp_qr", "replayed": True, "attempt": 3}
    assert frame.message() == frame.payload[1:].decode()


def test_a_backlog_is_bounded_and_says_that_it_let_go() -> None:
    backlog = Backlog()
    for seq in range(BACKLOG + 5):
        backlog.add(Delivery(stored(seq), Mode.LIVE, 0))
    assert len(backlog.deliveries) == BACKLOG
    assert backlog.overflowed


def test_a_channel_forgets_old_receipts() -> None:
    channel = KeyInFlight(KEY)
    for seq in range(REMEMBERED + 10):
        channel.remember_received(Delivery(stored(seq), Mode.LIVE, 0))
    assert len(channel.received) == REMEMBERED
    assert min(channel.received) == 10


def test_what_ended_during_a_replay_is_known_until_the_replay_is_over() -> None:
    channel = KeyInFlight(KEY)
    assert channel.take(1) is None
    assert channel.resolved == set()
    channel.backlogs["sid"] = Backlog()
    channel.take(2)
    assert channel.resolved == {2}
    channel.replay_over("sid")
    assert channel.resolved == set()
