"""What the writer thread tells the event loop: one message per batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from backend.delivery.outbox import OutboxError
from backend.delivery.outcome import Ended, StoredEvent
from backend.delivery.sqlite_ops import Done


class Told(NamedTuple):
    """The results of a batch, in the order in which they are told. An answer that is an exception is raised."""

    ended_before: Sequence[Ended] = ()
    done: Sequence[tuple[Done, StoredEvent | OutboxError]] = ()
    ended_within: Sequence[Ended] = ()
    answers: Sequence[tuple[Any, Any]] = ()
    moved_ns: int = 0
    """How far the clock was set in all, as far as these results know."""
    seconds: float | None = None
    """How long the commit took, None if there was none."""
