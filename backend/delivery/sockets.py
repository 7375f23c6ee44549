"""What delivery needs of the sockets, and nothing more. `backend/sockets` is the one that ships."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

from backend.delivery.outcome import MissReason
from backend.delivery.wire import Frame
from backend.identity import BotKey


class Miss(NamedTuple):
    """Why nobody is there. `keys` are the bot ids of the same user that have sockets."""

    reason: MissReason
    keys: tuple[str, ...] = ()


class Confirmable(Protocol):
    """What a receipt is asked for."""

    waiting: bool
    """Whether a confirmation is still of use."""


class Socket(Protocol):
    """One connected client, as the courier sees it."""

    sid: str
    key: BotKey
    must_ack: bool
    """The client declared that it acknowledges, and is held to it."""
    live: bool
    """False while what it missed is still being replayed to it."""

    @property
    def closed(self) -> bool: ...

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client to read them."""

    def send(self, frame: Frame) -> MissReason | None:
        """Write a frame behind all written before it, without waiting; the reason if it could not be."""

    def confirm(self, sent: Confirmable) -> None:
        """Ask for a receipt of what was just sent; the courier's `received` is told of it."""


class Sockets(Protocol):
    """Who is there, and why nobody is."""

    def of(self, key: BotKey) -> Collection[Socket]:
        """The key's sockets now; empty when nobody is there."""

    def why_missing(self, key: BotKey) -> Miss:
        """Why the key has no socket, from what is remembered."""

    def missed(self, key: BotKey, event: str, event_id: str, miss: Miss) -> None:
        """Remember a missed attempt, for the page of the last misses."""
