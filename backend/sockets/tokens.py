"""Sockets outlive tokens: who runs out is told, may renew without reconnecting, and is closed after a grace period."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from backend.delivery.wire import packet_frame
from backend.identity import Principal
from backend.sockets.contract import Renewed, TokenExpired
from backend.sockets.handshake import Handshake, Refusal
from backend.sockets.peer import Peer

log = structlog.get_logger(__name__)

EXPIRED = "auth_expired"
"""Socket.IO event that tells a client to renew."""


class Tokens:
    """Watches the tokens of mapped sockets."""

    def __init__(
        self,
        identify: Callable[[Handshake], Awaitable[Principal]],
        grace: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`identify` checks a token and raises `Refusal`; `grace` is in seconds, `now` in seconds since the epoch."""
        self._identify = identify
        self._grace = grace
        self._now = now

    async def renew(self, peer: Peer, said: object) -> Renewed:
        """A client sent `auth`: the answer for its acknowledgement. A token of somebody else changes nothing."""
        token = said.get("token") if isinstance(said, dict) else None
        shake = Handshake(token, None, None, must_ack=False, traceparent=None, remote="")
        try:
            principal = await self._identify(shake)
        except Refusal as refusal:
            return Renewed(False, code=refusal.code, message=refusal.message)
        if principal.user_id != peer.key.user_id:
            return Renewed(False, code="forbidden", message="The token belongs to another user.")
        peer.expires_at = principal.expires_at
        peer.told_expired = False
        log.debug("token_renewed", sid=peer.sid)
        return Renewed(True, expires_at=principal.expires_at)

    def overdue(self, peers: Iterable[Peer]) -> list[Peer]:
        """Tell those whose token has run out, once; those whose grace is over are returned, to be closed."""
        now = self._now()
        late: list[Peer] = []
        for peer in peers:
            if peer.expires_at is None or peer.expires_at > now:
                continue
            left = peer.expires_at + self._grace - now
            if left <= 0:
                late.append(peer)
            elif not peer.told_expired:
                peer.told_expired = True
                peer.send(packet_frame(EXPIRED, TokenExpired(round(left, 1))))
                log.debug("token_expired", sid=peer.sid)
        return late
