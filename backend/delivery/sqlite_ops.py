"""What the event loop asks of the writer thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from backend.delivery.outbox import OutboxError
from backend.delivery.outcome import Draft, Outcome, StoredEvent
from backend.identity import BotKey

if TYPE_CHECKING:
    from backend.delivery.sqlite_reader import Reader

Done: TypeAlias = Callable[[StoredEvent | OutboxError], None]


class Append(NamedTuple):
    draft: Draft
    done: Done


class Record(NamedTuple):
    """`attempts` is JSON, made at the call: the caller's list changes later."""

    key: BotKey
    seq: int
    attempts: str


class Resolve(NamedTuple):
    """`attempts` as in `Record`."""

    key: BotKey
    seq: int
    outcome: Outcome
    at: int
    attempts: str


class Upgrade(NamedTuple):
    key: BotKey
    seq: int
    at: int


class Move(NamedTuple):
    """The clock was set by `ns`; `offset` is wall minus steady time from now on, in nanoseconds."""

    ns: int
    offset: int


class Discard(NamedTuple):
    key: BotKey
    answer: asyncio.Future[int]


class Check(NamedTuple):
    answer: asyncio.Future[None]


class Read(NamedTuple):
    query: Callable[[Reader], Any]
    answer: asyncio.Future[Any]


class Stop(NamedTuple):
    answer: asyncio.Future[None]


Write: TypeAlias = Append | Record | Resolve | Upgrade | Move | Discard | Check
Kept: TypeAlias = Record | Resolve | Upgrade | Move
"""Writes that nobody waits for: after a failure they are tried again."""
