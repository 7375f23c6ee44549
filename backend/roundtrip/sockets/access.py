"""Who may connect and stay: the handshake, read and authenticated; limits per user; tokens that expire."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import structlog

from roundtrip.auth.authenticators import Authenticator, AuthError, Credentials
from roundtrip.clock import rfc3339
from roundtrip.delivery.wire import Frame, packet_frame
from roundtrip.errors import RoundtripError
from roundtrip.identity import IdentityError, Principal
from roundtrip.limits.rates import Limited, Limits
from roundtrip.sockets.engineio.connection import EngineConnection, WriteResult
from roundtrip.sockets.messages import Renewed, RequestRefused, TokenExpired
from roundtrip.sockets.peer import Peer


class Handshake(msgspec.Struct, frozen=True):
    """The fields as the client sent them, unchecked: whoever uses one checks it. `remote` is the client's address."""

    token: object
    user_id: object
    bot_id: object
    must_ack: bool
    traceparent: str | None
    remote: str


class Refusal(RoundtripError):  # noqa: N818  # it is an answer, not a fault
    """The client may not connect. The codes are those of the contract's `connect_error` (`messages.REFUSALS`)."""


def parse_handshake(auth: object, environ: Mapping[str, Any], remote: str) -> Handshake:
    """Take each field from `auth`, or from the query (`QUERY_STRING` in `environ`) where `auth` does not name it.

    `token` and `traceparent` are taken from `auth` only: a query ends up in access logs.
    """
    fields: Mapping[object, object] = auth if isinstance(auth, dict) else {}
    # Bytes that are not UTF-8 must not turn into another id: as surrogates they are refused where ids are checked.
    query = parse_qs(str(environ["QUERY_STRING"]), keep_blank_values=True, errors="surrogateescape")

    def field(name: str) -> object:
        return fields[name] if name in fields else query.get(name, [None])[-1]

    traceparent = fields.get("traceparent")
    return Handshake(
        token=fields.get("token"),
        user_id=field("userId"),
        bot_id=field("botId"),
        must_ack=fields.get("acks") is True,
        traceparent=traceparent if isinstance(traceparent, str) else None,
        remote=remote,
    )


log = structlog.get_logger(__name__)

EXPIRY_GRACE: Final = 30.0
"""Seconds between the expiry of a token and the close of its socket."""

CHECK_TIMEOUT: Final = 5.0
"""Seconds that the check of a renewed token may take."""

REFUSAL_INTERVAL: Final = 1.0
"""Seconds between two `request_refused` events to one client."""

RATE_LIMITED: Final = RequestRefused(False, "rate_limited", "Too many requests; wait a moment.")

_REQUEST: Final = re.compile(r"2([0-9]{0,15})\[")
"""A Socket.IO EVENT packet, with its ack id if it asks for an acknowledgement."""


class Admission:
    """Authenticates a handshake, and counts it against the user's rate of handshakes."""

    def __init__(self, identity: Authenticator, limits: Limits) -> None:
        self._identity = identity
        self._limits = limits

    async def __call__(self, handshake: Handshake) -> Principal:
        """Authenticate and count. Raises `Refusal`, or `IdentityError` with `user_id_invalid`."""
        principal = await self.identify(handshake)
        try:
            self._limits.handshake_of(principal.user_id)
        except Limited as limited:
            raise Refusal(limited.code, limited.message) from None
        return principal

    async def identify(self, handshake: Handshake) -> Principal:
        """Authenticate without counting: for a socket that renews its token. Raises as a call does."""
        try:
            return await self._identity.authenticate(Credentials(handshake.token, handshake.user_id))
        except AuthError as error:
            raise Refusal(error.code, error.message) from None


class SocketAccess:
    """Limits and token expiry of the connected sockets. Not thread-safe: it lives on the event loop."""

    def __init__(
        self,
        identify: Callable[[Handshake], Awaitable[Principal]] | None = None,
        limits: Limits | None = None,
        grace: float = EXPIRY_GRACE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`identify` authenticates a renewed token and raises `Refusal`; None where there are no tokens. Without
        `limits` nothing is counted. `grace` is in seconds; `now` is in seconds since the epoch, as tokens are."""
        self._identify = identify
        self._limits = limits
        self._grace = grace
        self._now = now
        self._notified: set[str] = set()
        """The sids of sockets that were sent `auth_expired` for their present token."""
        self.max_per_key = 1
        """The most sockets of one key; set by the server."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called for each socket whose expiry check failed."""

    # limits

    def acquire(self, user_id: str, of_key: int = 0, elsewhere: int = 0) -> None:
        """Count a new socket of a user. Its key has `of_key` already, the user has `elsewhere` on other nodes. Raises
        `Refusal`."""
        if of_key >= self.max_per_key:
            raise Refusal("too_many_sockets", f"This bot has {self.max_per_key} sockets already; close one.")
        if self._limits is None:
            return
        try:
            self._limits.socket(user_id, elsewhere)
        except Limited as limited:
            raise Refusal("too_many_sockets", limited.message) from None

    def release(self, peer: Peer) -> None:
        """A socket closed: its user may open another."""
        self._notified.discard(peer.sid)
        if self._limits is not None:
            self._limits.sockets.release(peer.key.user_id)

    def connection_closed(self, eio_sid: str) -> None:
        """Drop the request rate of a connection, whether a socket was mapped for it or not."""
        if self._limits is not None:
            self._limits.socket_gone(eio_sid)

    async def allowed(self, eio_sid: str) -> bool:
        """Whether the next message of a connection is within its rate."""
        return self._limits is None or self._limits.message(eio_sid)

    def refuse_message(self, connection: EngineConnection, data: str | bytes) -> None:
        """Answer a message that `allowed` refused: by its acknowledgement if it asks for one, else by the event
        `request_refused`, at most once in `REFUSAL_INTERVAL`."""
        if connection.listener is None:
            return
        now = asyncio.get_running_loop().time()
        request = _REQUEST.match(data) if isinstance(data, str) else None
        if request is not None and request[1]:
            reply = Frame(b"43%b[%b]" % (request[1].encode(), msgspec.json.encode(RATE_LIMITED)))
        elif now - connection.refusal_sent_at >= REFUSAL_INTERVAL:
            connection.refusal_sent_at = now
            reply = packet_frame("request_refused", RATE_LIMITED)
        else:
            return
        if connection.send_frame(reply) is WriteResult.FULL:
            connection.drop("queue_full")

    # tokens

    async def renew(self, peer: Peer, data: object) -> Renewed:
        """Take a fresh token (`data["token"]`) for a socket. It must be of the same user."""
        token = data.get("token") if isinstance(data, dict) else None
        handshake = Handshake(token, peer.key.user_id, peer.key.bot_id, peer.must_ack, None, "")
        if self._identify is None:
            return Renewed(ok=False, code="unavailable", message="Tokens are not used here.")
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                principal = await self._identify(handshake)
        except (Refusal, IdentityError) as refusal:
            return Renewed(ok=False, code=refusal.code, message=refusal.message)
        except TimeoutError:
            return Renewed(ok=False, code="unavailable", message="The token could not be checked in time; try again.")
        if principal.user_id != peer.key.user_id:
            return Renewed(ok=False, code="forbidden", message="The token is another user's.")
        peer.expires_at = principal.expires_at
        self._notified.discard(peer.sid)
        return Renewed(ok=True, expires_at=None if principal.expires_at is None else rfc3339(principal.expires_at))

    async def check_expiry(self, peers: Iterable[Peer]) -> None:
        """Send `auth_expired` once to each socket whose token expired, and close it after the grace.

        A failure with one socket is logged and counted; the others are checked all the same.
        """
        now = self._now()
        for peer in [peer for peer in peers if peer.expires_at is not None and peer.expires_at <= now]:
            try:
                await self._expired(peer, now)
            except Exception as error:
                self.on_failure()
                log.exception("socket_token_look_failed", sid=peer.sid, error=type(error).__name__)

    async def _expired(self, peer: Peer, now: float) -> None:
        remaining = (peer.expires_at or now) + self._grace - now
        if remaining <= 0:
            log.info("socket_token_expired", sid=peer.sid)
            await peer.connection.end("token_expired")
        elif peer.sid not in self._notified:
            peer.send(packet_frame("auth_expired", TokenExpired(round(remaining, 1))))
            self._notified.add(peer.sid)
