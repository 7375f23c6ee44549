"""Where a link's events go. Links know neither outbox nor sockets, only this."""

from __future__ import annotations

from typing import Protocol

from backend.events import Payload
from backend.identity import BotKey


class PublishError(Exception):
    """The event was not stored. `code` is `outbox_full` or `outbox_unavailable`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Publisher(Protocol):
    """Stores and delivers events."""

    @property
    def full(self) -> bool:
        """Whether no new event would find room now."""

    async def check(self) -> None:
        """Return when an event could be stored now. Raises `PublishError`."""

    async def publish(
        self, key: BotKey, link_id: str, payload: Payload, *, expires_at: int | None, traceparent: str | None
    ) -> None:
        """Return once the event is committed. `expires_at` is in milliseconds since the epoch.

        Raises `PublishError`, and then nothing was stored.
        """
