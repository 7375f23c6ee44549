"""What the HTTP API needs of the other parts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from opentelemetry.trace import SpanKind

from backend.delivery.outcome import LedgerEntry
from backend.identity import BotKey
from backend.links.faces import LinkView
from backend.links.script import SimulateAction
from backend.links.snapshot import Snapshot
from backend.sockets.registry import RegistryView


class Links(Protocol):
    """Commands on links. All raise `LinkError`."""

    async def start(self, key: BotKey, phone_number: str | None, traceparent: str | None) -> Snapshot: ...

    def begins(self, key: BotKey, phone_number: str | None) -> bool: ...

    def snapshot(self, key: BotKey) -> Snapshot: ...

    async def logout(self, key: BotKey) -> Snapshot: ...

    async def simulate(self, key: BotKey, action: SimulateAction) -> Snapshot: ...

    def links(self) -> Sequence[LinkView]: ...


class Ledger(Protocol):
    """The readable side of the outbox. All raise `OutboxError`."""

    async def last_seq(self, key: BotKey) -> int: ...

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]: ...

    async def find(self, event_id: str) -> LedgerEntry | None: ...

    async def check(self) -> None: ...


class SocketMap(Protocol):
    def view(self) -> RegistryView: ...


class RequestStep(Protocol):
    """A request's span. `traceparent` is what to hand on to whatever the request causes."""

    @property
    def traceparent(self) -> str: ...

    def set(self, name: str, value: str | int) -> None: ...

    def fail(self, error_type: str) -> None: ...


class RequestTracer(Protocol):
    def span(
        self, name: str, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL
    ) -> AbstractContextManager[RequestStep]:
        """A span around a block. `name` is a template, never an id; `parent` a traceparent, even a wrong one."""
