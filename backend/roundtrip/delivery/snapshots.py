"""Snapshots while the store is away: what is known is shown, and marked as old."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from roundtrip.errors import StorageError
from roundtrip.identity import BotKey

REMEMBERED: Final = 10_000
"""Keys whose newest snapshot is remembered."""

Shown = TypeVar("Shown", bound=msgspec.Struct)
"""The links' snapshot: a struct with the fields `seq` and `stale`."""


class Store(Protocol):
    """The outbox, as snapshots need it."""

    @property
    def away(self) -> bool: ...

    async def last_seq(self, key: BotKey) -> int: ...

    def known_seq(self, key: BotKey) -> int: ...

    async def check(self) -> None: ...


class Snapshots(Generic[Shown]):
    """`read` gives what is true now or, with `stale`, what was true last."""

    def __init__(self, store: Store, snapshot: Callable[[BotKey, int], Awaitable[Shown]]) -> None:
        """`snapshot` gives the state of a key whose newest event has this `seq`, or a newer one."""
        self._store = store
        self._snapshot = snapshot
        self._newest: OrderedDict[BotKey, tuple[int, Shown]] = OrderedDict()

    async def read(self, key: BotKey) -> tuple[int, Shown]:
        """The newest `seq` that is known of a key, and its snapshot. Raises `StorageError` when the store is away and
        nothing is known."""
        try:
            seq = await self._store.last_seq(key)  # first: nothing that it counts is missing in the snapshot
            found = await self._snapshot(key, seq)
        except StorageError as error:
            seq, found = await self._known(key, error)
            return seq, replace(found, stale=True)
        if await self.stale():
            return seq, replace(found, stale=True)
        self._newest[key] = seq, found
        self._newest.move_to_end(key)
        if len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)
        return seq, found

    async def stale(self) -> bool:
        """Whether the store is away: asked, if the last that was heard of it is bad."""
        if not self._store.away:
            return False
        try:
            await self._store.check()
        except StorageError:
            return True
        return False

    async def _known(self, key: BotKey, error: StorageError) -> tuple[int, Shown]:
        """This node's own links are known without the store, but for the `seq`; the others as they were shown last."""
        last = self._newest.get(key)
        seq = max(self._store.known_seq(key), 0 if last is None else last[0])
        if seq or last is not None:
            try:
                return seq, await self._snapshot(key, seq)
            except StorageError:
                pass
        if last is None:
            raise error
        return last
