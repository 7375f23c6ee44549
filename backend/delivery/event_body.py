"""What a stored event looks like: its id and its JSON, made once for the outbox and for the wire."""

from __future__ import annotations

import os
import time

import msgspec

from backend.delivery.outcome import Draft
from backend.events import TYPE_OF, EventType
from backend.identity import BotKey

_encode = msgspec.json.Encoder().encode
_TYPES = {type_: b'"type":' + _encode(type_.wire) for type_ in EventType}
_POOL = 1024
"""Ids' worth of random bytes that are fetched at once."""


class EventIds:
    """Makes UUIDv7s (RFC 9562), in lower case. For one thread."""

    def __init__(self) -> None:
        self._random = b""
        self._used = 0

    def make(self, at: int) -> str:
        """A new id with the time `at`, in milliseconds since the epoch."""
        if self._used == len(self._random):
            self._random = os.urandom(10 * _POOL)
            self._used = 0
        start = self._used
        self._used = start + 10
        bits = int.from_bytes(self._random[start : start + 10], "big")  # 12 bits before the variant, 62 after it
        low = 0x8000_0000_0000_0000 | (bits & 0x3FFF_FFFF_FFFF_FFFF)
        text = f"{at & 0xFFFF_FFFF_FFFF:012x}7{(bits >> 62) & 0xFFF:03x}{low:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Timestamps:
    """RFC 3339 in UTC with milliseconds. Remembers the newest second, for events come in bunches."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at: int) -> str:
        """`at` is in milliseconds since the epoch."""
        second, milli = divmod(at, 1000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        return f"{self._text}{milli:03d}Z"


def key_part(key: BotKey) -> bytes:
    """The part of a body that all events of a key share."""
    return b'"userId":%b,"botId":%b' % (_encode(key.user_id), _encode(key.bot_id))


def body(draft: Draft, seq: int, event_id: str, timestamp: str, key_json: bytes) -> bytes:
    """The public JSON of an event but for `replayed` and `attempt`. Raises on text that is not Unicode."""
    payload = _encode(draft.payload)
    return b'{"id":"%b","seq":%d,%b,%b,"linkId":%b,"timestamp":"%b","traceparent":%b%b%b' % (
        event_id.encode(),
        seq,
        _TYPES[TYPE_OF[type(draft.payload)]],
        key_json,
        _encode(draft.link_id),
        timestamp.encode(),
        _encode(draft.traceparent),
        b"" if payload == b"{}" else b",",
        payload[1:],
    )
