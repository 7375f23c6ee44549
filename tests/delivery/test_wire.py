"""The bytes of an event: their length, their acknowledgement's number, and how the event is sent."""

from __future__ import annotations

import json

import pytest

from roundtrip.delivery.wire import event_frame, websocket_frame
from roundtrip.outbox.records import Mode
from tests.delivery.stage import stored


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536])
def test_the_length_of_a_frame_is_encoded_as_in_rfc_6455(length: int) -> None:
    frame = websocket_frame(b"x" * length)
    assert frame[0] == 0x81
    if length < 126:
        assert (frame[1], len(frame)) == (length, length + 2)
    elif length < 65_536:
        assert (frame[1], int.from_bytes(frame[2:4], "big"), len(frame)) == (126, length, length + 4)
    else:
        assert (frame[1], int.from_bytes(frame[2:10], "big"), len(frame)) == (127, length, length + 10)


def test_the_frame_of_an_event_has_its_seq_as_ack_id_and_how_it_is_sent() -> None:
    frame = event_frame(stored(7), Mode.REPLAY, 3)
    assert frame.payload.startswith(b"427[")
    name, payload = json.loads(frame.payload[3:])
    assert name == "whatsapp_connection_event"
    assert payload == {"id": "id-7", "seq": 7, "type": "whatsapp_qr", "replayed": True, "attempt": 3}
    assert frame.message() == frame.payload[1:].decode()
