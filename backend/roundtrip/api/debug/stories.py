"""Which sockets came and went under which key: the story of a key, bounded in entries and in time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from roundtrip.sockets.peer import Peer

REMEMBERED: Final = 5000
"""Comings and goings that are kept, a fifth of a kilobyte each."""

KEPT_FOR: Final = 3600.0
"""Seconds."""


class Passage(msgspec.Struct, frozen=True, rename="camel"):
    """A socket was mapped or unmapped. `at` is in milliseconds since the epoch; `lived` in seconds, for one that
    left."""

    at: int
    user_id: str
    bot_id: str
    sid: str
    transport: str
    came: bool
    lived: float | None


class Stories:
    """Lives on the event loop."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._passages: deque[Passage] = deque(maxlen=REMEMBERED)

    def changed(self, peer: Peer, mapped: bool) -> None:
        lived = None if mapped else round(self._monotonic() - peer.connected_at, 3)
        key = peer.key
        self._passages.append(
            Passage(int(self._wall() * 1000), key.user_id, key.bot_id, peer.sid, peer.transport, mapped, lived)
        )

    def left(self, limit: int) -> list[Passage]:
        """The newest sockets that left, the newest first."""
        return self._newest(lambda passage: not passage.came, limit)

    def of(self, user_id: str, bot_id: str | None, limit: int) -> list[Passage]:
        """The passages of a user, or of one bot; the newest first."""
        return self._newest(
            lambda passage: passage.user_id == user_id and (bot_id is None or passage.bot_id == bot_id), limit
        )

    def _newest(self, wanted: Callable[[Passage], bool], limit: int) -> list[Passage]:
        oldest = (self._wall() - KEPT_FOR) * 1000
        found: list[Passage] = []
        for passage in reversed(self._passages):
            if passage.at < oldest or len(found) == limit:
                break
            if wanted(passage):
                found.append(passage)
        return found
