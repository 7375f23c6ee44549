"""Compares a link's believed state with the library's own answer: no link stays "connected" over a dead connection."""

from __future__ import annotations

from typing import Final

import structlog

from roundtrip.clock import TimerClock
from roundtrip.links.link import Link
from roundtrip.links.machine import LIVE, UP, Input, Timer
from roundtrip.links.record import LinkState

log = structlog.get_logger(__name__)

CONFIRM: Final = 2.0
"""Seconds until a contradiction is checked again: a report may be on its way."""

CONFIRM_ONLINE: Final = 10.0
"""The same when only the report is missing that it is connected: that one waits for the account's name."""

_ANSWER_LIMIT: Final = 10.0
"""Seconds that a session may take to answer."""


class Reconciler:
    """Checks one link at a time; `misses` is how often in a row a session may fail to answer."""

    def __init__(self, clock: TimerClock, misses: int) -> None:
        self._clock = clock
        self._limit = misses
        self._misses: dict[str, tuple[int, int]] = {}
        """By link: which session, by its number, and how often it missed."""

    async def check(self, link: Link) -> None:
        """Compare, and give the link the result. Raises nothing."""
        runner, record = link.lifecycle.runner, link.record
        session = runner.session
        if session is None or record is None or link.state not in LIVE or link.stalled:
            return
        if not runner.reported:
            return  # it is still dialing: `Timer.STUCK` limits that
        processed = link.inbox.processed
        connected = await runner.is_connected(record.link_id, _ANSWER_LIMIT)
        if connected is None:
            before, misses = self._misses.get(record.link_id, (runner.starts, 0))
            misses = misses + 1 if before == runner.starts else 1  # a successor begins anew
            self._misses[record.link_id] = runner.starts, misses
            log.warning("session_silent", link_id=record.link_id, misses=misses)
            if misses >= self._limit and runner.session is session:
                self._misses.pop(record.link_id, None)
                link.check_result(Input.WORKER_HUNG)
            return
        self._misses.pop(record.link_id, None)
        if (found := _contradiction(link, connected)) is None:
            return
        await self._clock.sleep(CONFIRM_ONLINE if connected else CONFIRM)
        if runner.session is not session:
            return
        if await runner.is_connected(record.link_id, _ANSWER_LIMIT) is not connected:
            return
        if link.inbox.processed == processed and link.inbox.idle and _contradiction(link, connected) is found:
            link.check_result(found)


def _contradiction(link: Link, connected: bool) -> Input | None:
    if link.flapping or link.lifecycle.timers.armed(Timer.GRACE):
        return None  # known to be away, and being watched
    if not connected and link.state in UP:
        return Input.FOUND_OFFLINE
    if connected and link.state is LinkState.DISCONNECTED:
        return Input.FOUND_ONLINE
    return None
