"""Collects what a session reports, and waits for it with a deadline."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from roundtrip.drivers import base as d

R = TypeVar("R", bound=d.Report)


class ReportRecorder:
    """A `report` callback that keeps what it was called with."""

    def __init__(self) -> None:
        self.all: list[d.Report] = []
        self._taken = 0
        self._news = asyncio.Event()

    def __call__(self, report: d.Report) -> None:
        self.all.append(report)
        self._news.set()

    async def next(self, kind: type[R], within: float = 30.0) -> R:
        """The next report of that kind, after the one that was returned last."""
        async with asyncio.timeout(within):
            while True:
                for at in range(self._taken, len(self.all)):
                    found = self.all[at]
                    if isinstance(found, kind):
                        self._taken = at + 1
                        return found
                self._news.clear()
                await self._news.wait()

    @property
    def names(self) -> list[str]:
        return [type(report).__name__ for report in self.all]
