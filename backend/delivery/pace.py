"""How soon a key's next replay may begin: clients that come and go without confirming anything are slowed down."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import structlog

from backend.clock import SYSTEM, Clock
from backend.identity import BotKey
from backend.links.backoff import Backoff
from backend.telemetry.redaction import key_hash

log = structlog.get_logger(__name__)

FREE: Final = 3
"""Replays in a row that may stay unconfirmed: a page that is reloaded in a hurry is not slowed down."""

FORGET_AFTER: Final = 60.0
"""Seconds without an unconfirmed replay after which a key begins anew."""

_LIMIT: Final = 10_000
"""Keys that are remembered; past it the longest unseen goes."""

_BACKOFF: Final = Backoff(0.1, 5.0)


class Pace:
    """Counts, per key, the sockets that were sent a replay and left while nothing of the key was confirmed."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._unconfirmed: OrderedDict[BotKey, tuple[int, float]] = OrderedDict()
        """How many in a row, and when the last left."""

    def __len__(self) -> int:
        return len(self._unconfirmed)

    def unconfirmed(self, key: BotKey) -> None:
        """A socket left that was sent events, and nothing was confirmed."""
        now = self._clock.monotonic()
        count, last = self._unconfirmed.pop(key, (0, now))
        count = count + 1 if now - last < FORGET_AFTER else 1
        self._unconfirmed[key] = (count, now)
        if count == FREE + 1:
            log.warning("replays_slowed", key=key_hash(key.user_id, key.bot_id), unconfirmed=count)
        if len(self._unconfirmed) > _LIMIT:
            self._unconfirmed.popitem(last=False)

    def confirmed(self, key: BotKey) -> None:
        """Something of the key was confirmed."""
        self._unconfirmed.pop(key, None)

    def delay(self, key: BotKey) -> float:
        """Seconds that a replay waits before it sends its first event; 0 for almost everybody."""
        count, last = self._unconfirmed.get(key, (0, 0.0))
        if count <= FREE:
            return 0.0
        if self._clock.monotonic() - last >= FORGET_AFTER:
            del self._unconfirmed[key]
            return 0.0
        return _BACKOFF.delay(count - FREE)
