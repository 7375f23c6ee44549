"""What the stores share that commit many events at once: the calls of the program go to one writer, by a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Check, outbox_closed
from roundtrip.outbox.records import Ended

log = structlog.get_logger(__name__)

WEEK: Final = 7 * 86400.0


class CommitFaults:
    """Faults that can be injected into every commit, from any thread."""

    def __init__(self) -> None:
        self.delay = 0.0
        """Seconds that a commit takes longer."""
        self.down = False
        """Whether commits fail."""


class BatchWriter(Protocol):
    """What writes: a thread, or a task."""

    faults: CommitFaults
    on_failure: Callable[[], object]
    """Called for each commit that failed."""
    round_began: float
    """When its present round began, on the monotonic clock; 0.0 between two."""

    failing: Callable[[], bool]
    """Whether the newest commit failed. May be called from any thread."""

    def put(self, item: Any) -> None:
        """Queue an item."""


class BatchedOutbox:
    """The part of an `Outbox` that is the same for all of them. Set `on_ended` and `on_write`, then `start`."""

    _writer: BatchWriter

    def __init__(self) -> None:
        self._open = False
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda _ended: None
        self.on_write: Callable[[float], None] = lambda _seconds: None
        """Called with the seconds that each committed batch took."""
        self.on_error: Callable[[], object] = lambda: None
        """Called when a callback raised."""

    @property
    def up(self) -> bool:
        """Whether the store is reached, as far as is known."""
        raise NotImplementedError

    @property
    def away(self) -> bool:
        """As `Outbox.away`."""
        return not self.up or self._writer.failing()

    def known_seq(self, key: BotKey) -> int:  # it can be read when it cannot be written
        """As `Outbox.known_seq`."""
        return 0

    def count_failures(self, count: Callable[[], object]) -> None:
        """Have each failed commit counted, by whoever writes: it may be called on another thread."""
        self._writer.on_failure = count

    def batch_age(self) -> float:
        """Seconds for which the writer has been at its present round, 0.0 between two: whatever is to be committed has
        waited as long. May be called from any thread."""
        began = self._writer.round_began
        return time.monotonic() - began if began else 0.0

    @property
    def fault_delay(self) -> float:
        """Fault: seconds that every commit takes longer."""
        return self._writer.faults.delay

    @fault_delay.setter
    def fault_delay(self, seconds: float) -> None:
        self._writer.faults.delay = seconds

    @property
    def fault_down(self) -> bool:
        """Fault: commits fail."""
        return self._writer.faults.down

    @fault_down.setter
    def fault_down(self, down: bool) -> None:
        self._writer.faults.down = down

    async def check(self) -> None:
        """As `Outbox.check`."""
        reply: asyncio.Future[None] = self._new_reply()
        self._writer.put(Check(reply))
        await reply

    def _put(self, write: object) -> None:
        if self._open:
            self._writer.put(write)
        else:
            log.warning("outbox_write_after_close", kind=type(write).__name__)

    def _new_reply(self) -> asyncio.Future[Any]:
        if not self._open:
            raise outbox_closed()
        return asyncio.get_running_loop().create_future()

    def _call(self, callback: Callable[[Any], None], argument: object) -> None:
        try:
            callback(argument)
        except Exception:  # the other callbacks must still be called
            log.exception("outbox_callback_failed")
            self.on_error()
