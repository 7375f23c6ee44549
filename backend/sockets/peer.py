"""One client's socket, from its handshake to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

from backend.delivery.outcome import MissReason
from backend.delivery.sockets import Confirmable
from backend.delivery.wire import Frame
from backend.identity import BotKey
from backend.sockets.lane import Lane, Sent

PROMPT_WAIT: Final = 1.0
"""Seconds that a client which acknowledges by itself is given before a receipt is asked for."""

_REASON: Final = {Sent.FULL: MissReason.QUEUE_FULL, Sent.FAILED: MissReason.SEND_FAILED}


class Confirmations(Protocol):
    """Who is told what a client confirmed."""

    def acked(self, peer: Peer, seq: int) -> None:
        """The application of `peer` acknowledged `seq`, which may be any number at all."""

    def received(self, peer: Peer, sent: Sequence[Confirmable]) -> None:
        """The engine of `peer` has read these."""


class Peer:
    """A mapped socket. Removed from the registry by its own `sid`, never by its key."""

    __slots__ = (
        "_batch",
        "_confirmations",
        "_loop",
        "_prompt",
        "_timer",
        "connect_parent",
        "connected_at",
        "eio_sid",
        "expires_at",
        "key",
        "lane",
        "live",
        "must_ack",
        "sid",
    )

    def __init__(
        self,
        sid: str,
        eio_sid: str,
        key: BotKey,
        lane: Lane,
        confirmations: Confirmations,
        *,
        must_ack: bool,
        connect_parent: str | None,
        expires_at: float | None,
    ) -> None:
        self.sid = sid
        self.eio_sid = eio_sid
        self.key = key
        self.lane = lane
        self.must_ack = must_ack
        self.live = False
        self.connect_parent = connect_parent
        self.expires_at = expires_at
        """When its token runs out, in seconds since the epoch; None for never."""
        self.connected_at = time.monotonic()
        self._confirmations = confirmations
        self._loop = asyncio.get_running_loop()
        self._batch: list[Confirmable] = []
        self._timer: asyncio.Handle | None = None
        self._prompt = False
        lane.client = self

    @property
    def closed(self) -> bool:
        return self.lane.closed

    @property
    def backlog(self) -> int:
        return self.lane.backlog

    @property
    def transport(self) -> str:
        return self.lane.transport

    def send(self, frame: Frame) -> MissReason | None:
        sent = self.lane.send(frame)
        if sent is Sent.OK:
            return None
        if sent is Sent.FULL:
            self.lane.abort("queue_full")
        return _REASON[sent]

    def confirm(self, sent: Confirmable) -> None:
        """Ask for a receipt: one PING for all that goes out in this turn of the loop.

        A client that has shown that it acknowledges is given a moment to do so; then the PING is saved.
        """
        self._batch.append(sent)
        if self._timer is None:
            self._timer = (
                self._loop.call_later(PROMPT_WAIT, self._ask) if self._prompt else self._loop.call_soon(self._ask)
            )

    def _ask(self) -> None:
        self._timer = None
        batch = self._batch
        self._batch = []
        if self._prompt:
            batch = [sent for sent in batch if sent.waiting]
            if not batch:
                return
            self._prompt = False
        self.lane.ping(batch)

    def acked(self, seq: int) -> None:
        self._prompt = True
        self._confirmations.acked(self, seq)

    def received(self, marker: object) -> None:
        if isinstance(marker, list):
            self._confirmations.received(self, marker)

    def forget(self) -> None:
        """Let go of what it still waits for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._batch = []
        self.lane.client = None
