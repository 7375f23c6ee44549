"""A fault for developers: connected links lose WhatsApp and have it back, over and over, whoever the driver is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from backend.links import driver as d
from backend.links.clock import Clock
from backend.links.link import Link
from backend.links.snapshot import LinkState


class Flapping:
    """Off until `every` is given a number. `links` are those that may suffer."""

    def __init__(self, clock: Clock, links: Callable[[], Iterable[Link]]) -> None:
        self._clock = clock
        self._links = links
        self._task: asyncio.Task[None] | None = None

    def every(self, seconds: float | None) -> None:
        """Be down for so many seconds, then up for as many, and so on; None ends it, with all links up."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if seconds is not None:
            self._task = asyncio.create_task(self._swing(seconds), name="links-flapping")

    async def _swing(self, seconds: float) -> None:
        down: list[Link] = []
        try:
            while True:
                down = [link for link in self._links() if link.state in (LinkState.CONNECTED, LinkState.DEGRADED)]
                for link in down:
                    link.report(d.Offline())
                await self._clock.sleep(seconds)
                self._up(down)
                await self._clock.sleep(seconds)
        finally:
            self._up(down)

    @staticmethod
    def _up(links: list[Link]) -> None:
        for link in links:
            if (record := link.record) is not None and record.paired and record.phone_number is not None:
                link.report(d.Online(record.phone_number, record.display_name or ""))
        links.clear()
