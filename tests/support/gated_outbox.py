"""An outbox whose every answer waits at a gate, over a real one: a test decides what is known when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, TypeVar

from roundtrip.identity import BotKey
from roundtrip.outbox.base import Outbox, OutboxError
from roundtrip.outbox.records import Attempt, Draft, Ended, LedgerEntry, Resolution, StoredEvent, Totals

T = TypeVar("T")
A = TypeVar("A", StoredEvent, StoredEvent | OutboxError)

KINDS: Final = frozenset({"append", "ended", "pending", "last_seq", "ledger", "find", "check"})
"""Names of the answers: `ended` is the outbox's word that it ended events itself."""


class GatedOutbox:
    """Hands every call on at once; answers whose kind is in `held` wait until they are let through, in order.

    An answer was true when it was given: what is written while it waits is not in it, as with any slow store.
    """

    def __init__(self, inner: Any) -> None:
        """`inner` is an `Outbox`; what is not of that protocol (faults, counters) is reached through this one too."""
        self.inner: Outbox = inner
        self.held: frozenset[str] = frozenset()
        self.waiting: list[tuple[str, Callable[[], None]]] = []
        """What waits at the gate, the oldest first."""
        self.on_stored: Callable[[StoredEvent | OutboxError], None] = lambda _result: None
        """Told of each append's result when it is true, before anybody else is."""
        self.arrived = 0
        self._moved_ns = 0
        """Answers so far."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def hold(self, *kinds: str) -> None:
        """From now on these answers wait; all of them if none is named."""
        self.held = frozenset(kinds) or KINDS

    def open(self) -> None:
        """Let all through, and hold nothing any more."""
        self.held = frozenset()
        self.let(len(self.waiting))

    def let(self, count: int = 1, kinds: Collection[str] = KINDS) -> int:
        """Let the oldest `count` of these kinds through; how many there were."""
        let: list[tuple[str, Callable[[], None]]] = []
        stay: list[tuple[str, Callable[[], None]]] = []
        for item in self.waiting:
            (let if item[0] in kinds and len(let) < count else stay).append(item)
        self.waiting = stay
        for _, answer in let:
            answer()
        return len(let)

    def _pass(self, kind: str, answer: Callable[[], None]) -> None:
        self.arrived += 1
        if kind in self.held or any(of == kind for of, _ in self.waiting):
            self.waiting.append((kind, answer))
        else:
            answer()

    async def _ask(self, kind: str, question: Coroutine[Any, Any, T]) -> T:
        """A refusal is an answer too."""
        try:
            found = await question
        except OutboxError:
            await self._at_gate(kind)
            raise
        await self._at_gate(kind)
        return found

    async def _at_gate(self, kind: str) -> None:
        through: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer() -> None:
            if not through.done():  # whoever asked has gone
                through.set_result(None)

        self._pass(kind, answer)
        await through

    def _moved(self, answer: A, moved_ns: int) -> A:
        """An answer is told by the clock as it is when it is told."""
        behind = (self._moved_ns - moved_ns) // 1_000_000
        return answer.moved(behind) if behind and isinstance(answer, StoredEvent) else answer

    # the outbox

    @property
    def on_ended(self) -> Callable[[Sequence[Ended]], None]:
        return self.inner.on_ended

    @on_ended.setter
    def on_ended(self, told: Callable[[Sequence[Ended]], None]) -> None:
        self.inner.on_ended = lambda ended: self._pass("ended", lambda: told(ended))

    async def start(self) -> None:
        await self.inner.start()

    async def close(self) -> None:
        await self.inner.close()

    def append(self, draft: Draft, done: Callable[[StoredEvent | OutboxError], None]) -> None:
        def stored(result: StoredEvent | OutboxError) -> None:
            self.on_stored(result)
            moved_ns = self._moved_ns
            self._pass("append", lambda: done(self._moved(result, moved_ns)))

        self.inner.append(draft, stored)

    def record(self, key: BotKey, seq: int, attempts: Sequence[Attempt]) -> None:
        self.inner.record(key, seq, attempts)

    def resolve(self, resolution: Resolution) -> None:
        self.inner.resolve(resolution)

    def moved(self, ns: int) -> None:
        self._moved_ns += ns
        self.inner.moved(ns)

    def upgrade(self, key: BotKey, seq: int, at: int) -> None:
        self.inner.upgrade(key, seq, at)

    async def pending(self, key: BotKey, after: int, limit: int) -> list[StoredEvent]:
        found = await self.inner.pending(key, after, limit)
        moved_ns = self._moved_ns
        await self._at_gate("pending")
        return [self._moved(event, moved_ns) for event in found]

    async def last_seq(self, key: BotKey) -> int:
        return await self._ask("last_seq", self.inner.last_seq(key))

    async def ledger(self, key: BotKey, after: int, limit: int) -> list[LedgerEntry]:
        return await self._ask("ledger", self.inner.ledger(key, after, limit))

    async def find(self, event_id: str) -> LedgerEntry | None:
        return await self._ask("find", self.inner.find(event_id))

    async def check(self) -> None:
        await self._ask("check", self.inner.check())

    def totals(self) -> Totals:
        return self.inner.totals()
