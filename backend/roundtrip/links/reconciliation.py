"""The truth: what is believed of a link, compared with the library's own word. "WORKING but dead" ends here."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from roundtrip.clock import TimerClock
from roundtrip.links.link import Link
from roundtrip.links.machine import LIVE, UP, Input, Timer
from roundtrip.links.record import LinkState

log = structlog.get_logger(__name__)

CONFIRM: Final = 2.0
"""Seconds until a contradiction is looked at again: a report may be on its way."""

CONFIRM_ONLINE: Final = 10.0
"""The same when only the report is missing that it is connected: that one waits for the account's name."""

_ANSWER_LIMIT: Final = 10.0


class Reconciler:
    """Checks one link at a time; `misses` is how often in a row a session may fail to answer."""

    def __init__(self, clock: TimerClock, misses: int) -> None:
        self._clock = clock
        self._limit = misses
        self._misses: dict[str, tuple[int, int]] = {}
        """By link: which session, by its number, and how often it missed."""

    async def check(self, link: Link) -> None:
        """Compare, and tell the link what was found. Raises nothing."""
        session, record = link.lifecycle.runner.session, link.record
        if session is None or record is None or link.state not in LIVE or link.stalled:
            return
        if not link.lifecycle.runner.spoken:
            return  # it is still dialing: how long that may take is another deadline's matter
        taken = link.inbox.taken
        alive = await self._ask(link)
        if alive is None:
            starts = link.lifecycle.runner.starts
            before, misses = self._misses.get(record.link_id, (starts, 0))
            misses = misses + 1 if before == starts else 1  # a successor begins anew
            self._misses[record.link_id] = starts, misses
            log.warning("session_silent", link_id=record.link_id, misses=misses)
            if misses >= self._limit and link.lifecycle.runner.session is session:
                self._misses.pop(record.link_id, None)
                link.found(Input.WORKER_HUNG)
            return
        self._misses.pop(record.link_id, None)
        if (found := _contradiction(link, alive)) is None:
            return
        await self._clock.sleep(CONFIRM_ONLINE if alive else CONFIRM)
        if link.lifecycle.runner.session is not session or await self._ask(link) is not alive:
            return
        if link.inbox.taken == taken and link.inbox.idle and _contradiction(link, alive) is found:
            link.found(found)

    async def _ask(self, link: Link) -> bool | None:
        session = link.lifecycle.runner.session
        if session is None:
            return None
        try:
            async with asyncio.timeout(_ANSWER_LIMIT):
                return await session.alive()
        except Exception as error:  # noqa: BLE001  no answer is an answer
            log.warning("session_cannot_answer", error=type(error).__name__)
            return None


def _contradiction(link: Link, alive: bool) -> Input | None:
    if link.flapping or link.lifecycle.timers.armed(Timer.GRACE):
        return None  # known to be away, and being watched
    if not alive and link.state in UP:
        return Input.FOUND_OFFLINE
    if alive and link.state is LinkState.DISCONNECTED:
        return Input.FOUND_ONLINE
    return None
