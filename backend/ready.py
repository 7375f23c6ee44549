"""Whether the program can do its work: the checks behind `/readyz`."""

from __future__ import annotations

from collections.abc import Mapping

from backend.api.health import ReadyCheck
from backend.delivery.outbox import Outbox
from backend.links.service import LinkService


class Readiness:
    """`draining` is set when a stop begins."""

    def __init__(self, outbox: Outbox, links: LinkService) -> None:
        self._outbox = outbox
        self._links = links
        self.draining = False

    def checks(self) -> Mapping[str, ReadyCheck]:
        return {"outbox": self._writable, "restore": self._restored, "draining": self._staying}

    async def _writable(self) -> str | None:
        await self._outbox.check()
        return None

    async def _restored(self) -> str | None:
        restoring = self._links.restoring
        return None if restoring.finished else f"{restoring.done} of {restoring.total} links are restored."

    async def _staying(self) -> str | None:
        return "The program is stopping." if self.draining else None
