"""Who may stay: places per user, requests per socket, and tokens that run out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from backend.delivery.wire import packet_frame
from backend.identity import IdentityError, Principal
from backend.limits import Limited, Limits
from backend.sockets.contract import Renewed, TokenExpired
from backend.sockets.handshake import Handshake, Refusal
from backend.sockets.peer import Peer

log = structlog.get_logger(__name__)

GRACE: Final = 30.0
"""Seconds between the end of a token and that of its socket."""

CHECK_DEADLINE: Final = 5.0


class Doorkeeper:
    """`identify` finds out who a token belongs to and raises `Refusal`. Without `limits` nothing is counted."""

    def __init__(
        self,
        identify: Callable[[Handshake], Awaitable[Principal]] | None = None,
        limits: Limits | None = None,
        grace: float = GRACE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`grace` is in seconds; `now` counts seconds from the epoch, as tokens do."""
        self._identify = identify
        self._limits = limits
        self._grace = grace
        self._now = now
        self._told: set[str] = set()
        """Sockets that know that their token ran out."""
        self.on_failure: Callable[[], None] = lambda: None
        """Told of each look at one socket that failed."""

    def enter(self, user_id: str) -> None:
        """A socket takes a place of its user. Raises `Refusal`."""
        if self._limits is None:
            return
        try:
            self._limits.socket(user_id)
        except Limited as limited:
            raise Refusal("too_many_sockets", limited.message) from None

    def leave(self, peer: Peer) -> None:
        """The place is free again."""
        self._told.discard(peer.sid)
        if self._limits is not None:
            self._limits.sockets.leave(peer.key.user_id)

    def forget(self, eio_sid: str) -> None:
        """A connection went, mapped or not."""
        if self._limits is not None:
            self._limits.socket_gone(eio_sid)

    async def allowed(self, eio_sid: str) -> bool:
        """Whether a client's next message is taken up; one too many is refused."""
        return self._limits is None or self._limits.message(eio_sid)

    async def renew(self, peer: Peer, data: object) -> Renewed:
        """A client sends a fresh token; whose it is must not change."""
        token = data.get("token") if isinstance(data, dict) else None
        shake = Handshake(token, peer.key.user_id, peer.key.bot_id, peer.must_ack, None, "")
        if self._identify is None:
            return Renewed(ok=False, code="unavailable", message="Tokens are not used here.")
        try:
            async with asyncio.timeout(CHECK_DEADLINE):
                principal = await self._identify(shake)
        except (Refusal, IdentityError) as refusal:
            return Renewed(ok=False, code=refusal.code, message=refusal.message)
        except TimeoutError:
            return Renewed(ok=False, code="unavailable", message="The token could not be checked in time; try again.")
        if principal.user_id != peer.key.user_id:
            return Renewed(ok=False, code="forbidden", message="The token is another user's.")
        peer.expires_at = principal.expires_at
        self._told.discard(peer.sid)
        return Renewed(ok=True, expires_at=principal.expires_at)

    async def look(self, peers: Iterable[Peer]) -> None:
        """Tell those whose token ran out, and close those who did nothing about it. What fails for one is logged, and
        nobody else's."""
        now = self._now()
        for peer in [peer for peer in peers if peer.expires_at is not None and peer.expires_at <= now]:
            try:
                await self._ran_out(peer, now)
            except Exception as error:
                self.on_failure()
                log.exception("socket_token_look_failed", sid=peer.sid, error=type(error).__name__)

    async def _ran_out(self, peer: Peer, now: float) -> None:
        left = (peer.expires_at or now) + self._grace - now
        if left <= 0:
            log.info("socket_token_expired", sid=peer.sid)
            await peer.lane.end("token_expired")
        elif peer.sid not in self._told:
            peer.send(packet_frame("auth_expired", TokenExpired(round(left, 1))))
            self._told.add(peer.sid)
