"""The bytes of an event on the wire."""

from __future__ import annotations

from typing import Final

import msgspec

from backend.delivery.outbox import StoredEvent
from backend.delivery.outcome import Mode
from backend.events import CONNECTION_EVENT, STATUS_UPDATE

_EVENT: Final = b'["' + CONNECTION_EVENT.encode() + b'",'
_STATUS: Final = b'42["' + STATUS_UPDATE.encode() + b'",'
_REPLAYED: Final = {Mode.LIVE: b',"replayed":false,"attempt":', Mode.REPLAY: b',"replayed":true,"attempt":'}


def event_packet(event: StoredEvent, mode: Mode, attempt: int) -> bytes:
    """An Engine.IO message with a Socket.IO event. Its ack id is the event's `seq`, so that any socket's ack names
    the event, and all sockets of a key get the same bytes. `attempt` counts from 1."""
    return b"42%d%b%b%b%d}]" % (event.seq, _EVENT, event.body[:-1], _REPLAYED[mode], attempt)


def status_packet(snapshot: msgspec.Struct) -> bytes:
    """An Engine.IO message with a snapshot, without an ack id."""
    return _STATUS + msgspec.json.encode(snapshot) + b"]"
