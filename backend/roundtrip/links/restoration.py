"""Links whose sessions an earlier run of the program had, or another node: they start again, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from roundtrip.identity import BotKey
from roundtrip.links.context import LinkContext
from roundtrip.links.link import Link
from roundtrip.links.queue import Order
from roundtrip.links.record import LinkState
from roundtrip.telemetry import redaction

log = structlog.get_logger(__name__)

RESTORE_TIMEOUT: Final = 10.0
"""Seconds after which a link that is still connecting no longer counts towards `restore_concurrency`."""


class RestoreProgress(NamedTuple):
    """How many links were interrupted, and for how many of them the attempt to restore them is over."""

    total: int
    done: int
    finished: bool


class Restoration:
    """What waits, and how far it is."""

    def __init__(self, context: LinkContext, watched: Callable[[BotKey], bool]) -> None:
        """`watched`: whether a page of a key is open now. Those links are restored first."""
        self._context = context
        self._watched = watched
        self._waiting: list[Link] = []
        self.progress = RestoreProgress(0, 0, False)

    def add(self, link: Link) -> None:
        """Restore a link with the next `run`, or the one that is under way."""
        self._waiting.append(link)
        self.progress = self.progress._replace(total=self.progress.total + 1)

    def discard(self, link: Link) -> None:
        """It is no longer this node's to restore."""
        if link in self._waiting:
            self._waiting.remove(link)
            self.progress = self.progress._replace(done=self.progress.done + 1)

    def logout_interrupted(self, link: Link) -> bool:
        """Whether the program ended between the commit of a logout's removal and that of its new state."""
        record = link.record
        return record is not None and record.paired and self._context.removals.pending(record.link_id)

    async def run(self) -> None:
        """Restore what waits. Returns when all attempts are over."""
        waiting = self._waiting

        async def restore_some() -> None:
            while waiting:  # whose page is open now goes first; else the last connected
                link = next((one for one in waiting if self._watched(one.key)), waiting[0])
                waiting.remove(link)
                await self._restore(link)

        await asyncio.gather(*(restore_some() for _ in range(self._context.settings.restore_concurrency)))
        self.progress = self.progress._replace(finished=True)

    async def _restore(self, link: Link) -> None:
        try:
            await link.order(Order.LOGOUT if self.logout_interrupted(link) else Order.RESTORE)
            await link.leaves(LinkState.CONNECTING, RESTORE_TIMEOUT)
        except Exception as error:  # noqa: BLE001  one link's failure must not keep the others away
            log.error("link_not_restored", link_id=link.snapshot().link_id, error=redaction.message_of(error))
        self.progress = self.progress._replace(done=self.progress.done + 1)
        log.info("link_restored", state=link.state, done=self.progress.done, of=self.progress.total)
