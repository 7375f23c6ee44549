"""What a client says when it connects: in `auth`, or in the query as the older frontend does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import structlog

from roundtrip.auth.authenticators import Authenticator, AuthError, Credentials
from roundtrip.delivery.wire import packet_frame
from roundtrip.errors import RoundtripError
from roundtrip.identity import IdentityError, Principal
from roundtrip.limits.rates import Limited, Limits
from roundtrip.sockets.messages import Renewed, TokenExpired
from roundtrip.sockets.peer import Peer


class Handshake(msgspec.Struct, frozen=True):
    """Unchecked: whoever uses a field checks it. `remote` is the client's address."""

    token: object
    user_id: object
    bot_id: object
    must_ack: bool
    traceparent: str | None
    remote: str


class Refusal(RoundtripError):  # noqa: N818  # it is an answer, not a fault
    """The client may not connect. Codes are those of the contract's `connect_error`."""


def read(auth: object, environ: Mapping[str, Any], remote: str) -> Handshake:
    """Take each field from `auth`, and from the query where `auth` does not name it. `token` is never in a query,
    where logs would keep it."""
    said: Mapping[object, object] = auth if isinstance(auth, dict) else {}
    # What is no UTF-8 must not become another id: as surrogates it is refused where ids are checked.
    query = parse_qs(str(environ["QUERY_STRING"]), keep_blank_values=True, errors="surrogateescape")

    def field(name: str) -> object:
        return said[name] if name in said else query.get(name, [None])[-1]

    traceparent = said.get("traceparent")
    return Handshake(
        token=said.get("token"),
        user_id=field("userId"),
        bot_id=field("botId"),
        must_ack=said.get("acks") is True,
        traceparent=traceparent if isinstance(traceparent, str) else None,
        remote=remote,
    )


class Admission:
    """What the socket server asks of each handshake: who it is, and whether that user connects too often."""

    def __init__(self, identity: Authenticator, limits: Limits) -> None:
        self._identity = identity
        self._limits = limits

    async def __call__(self, shake: Handshake) -> Principal:
        """Let a handshake in as somebody. Raises `Refusal`, or `IdentityError` with `user_id_invalid`."""
        principal = await self.identify(shake)
        try:
            self._limits.handshake_of(principal.user_id)
        except Limited as limited:
            raise Refusal(limited.code, limited.message) from None
        return principal

    async def identify(self, shake: Handshake) -> Principal:
        """Who it is, without counting it: for a socket that renews its token. Raises as a call does."""
        try:
            return await self._identity.authenticate(Credentials(shake.token, shake.user_id))
        except AuthError as error:
            raise Refusal(error.code, error.message) from None


log = structlog.get_logger(__name__)

GRACE: Final = 30.0
"""Seconds between the end of a token and that of its socket."""

CHECK_DEADLINE: Final = 5.0


class SocketAccess:
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
            self._limits.sockets.release(peer.key.user_id)

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
