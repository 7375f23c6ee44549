"""The types on the wire beside the events' own fields (handshake, envelope, requests), and what sockets count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from roundtrip.telemetry.metrics import Metrics


class WireModel(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Base: fields are in camel case, and left out where they have their default."""


class HandshakeAuth(WireModel, frozen=True):
    """The client's `auth` object. `token` with jwt, `userId` in trusted mode; both ids may stand in the query instead.
    `acks` true promises to acknowledge every event."""

    bot_id: str
    token: str | None = None
    user_id: str | None = None
    acks: bool = False
    traceparent: str | None = None


class Envelope(WireModel, frozen=True, omit_defaults=False):
    """Fields of every `whatsapp_connection_event`. `id` is a UUIDv7, `seq` grows by one per user and bot, `timestamp`
    is RFC 3339 UTC with milliseconds, `attempt` counts from 1."""

    id: str
    seq: int
    type: str
    user_id: str
    bot_id: str
    link_id: str
    timestamp: str
    replayed: bool
    attempt: int
    traceparent: str


class AuthRenewal(WireModel, frozen=True):
    """A fresh token of the same user, for a socket that stays."""

    token: str


class Renewed(WireModel, frozen=True):
    """Answer to `auth`, as its ack: `expiresAt` is when the new token expires, or the refusal's code and sentence."""

    ok: bool
    expires_at: str | None = None
    code: str | None = None
    message: str | None = None


class ServingNode(WireModel, frozen=True):
    """Answer to `node`, as its ack: the node that holds this socket. Only nodes of a shared store answer."""

    node: str


def node_answer(node: str) -> Callable[..., Awaitable[object]]:
    """The handler of the request `node`."""

    async def answer(_sid: str, *_data: object) -> object:
        return {"node": node}

    return answer


class TokenExpired(WireModel, frozen=True):
    """`graceSeconds` is what is left to renew before the socket is closed."""

    grace_seconds: float


class RequestRefused(WireModel, frozen=True, omit_defaults=False):
    """A request was not taken up: `code` is `rate_limited`. A request that asks for an ack is told so there, each time;
    others by this event, at most once a second. `ok` is false."""

    ok: bool
    code: str
    message: str


REFUSALS: Final = {
    "bot_id_missing": "No botId was given.",
    "bot_id_invalid": "The botId must be a string of 1 to 128 printable characters.",
    "user_id_invalid": "The userId must be a string of 1 to 128 printable characters.",
    "too_many_sockets": "This user and bot have the maximum number of sockets.",
    "unauthorized": "The token is missing, invalid or expired.",
    "forbidden": "The userId given is not the token's own.",
    "rate_limited": "Too many connections from this user or address.",
    "unavailable": "The backend is stopping, or cannot verify tokens at the moment; try again.",
}
"""Codes of `err.data.code` in `connect_error`."""


class SocketMetrics(Protocol):
    """Implemented by `SocketCounters`, and by the recorders of tests."""

    def connected(self, result: str) -> None:
        """A handshake ended: `accepted`, or a refusal's code."""

    def disconnected(self, reason: str, lifetime: float) -> None:
        """A mapped socket closed after `lifetime` seconds."""

    def step_failed(self) -> None:
        """One step of a periodic task failed for one socket, or a socket's state was asked to change illegally."""

    def packet_refused(self, what: str) -> None:
        """A client broke the protocol, and was closed for it."""

    def packet_too_large(self) -> None:
        """A client sent more than a packet may have, and was closed for it."""


class SocketCounters:
    """`SocketMetrics` over the metrics catalogue."""

    __slots__ = ("_metrics",)

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def connected(self, result: str) -> None:
        self._metrics.socket_connects[result].inc()

    def disconnected(self, reason: str, lifetime: float) -> None:
        self._metrics.socket_disconnects[reason].inc()
        self._metrics.socket_lifetime.observe(lifetime)

    def packet_refused(self, what: str) -> None:
        self._metrics.packets_refused[what].inc()

    def packet_too_large(self) -> None:
        self._metrics.count_refusal("packet_size")

    def step_failed(self) -> None:
        self._metrics.task_failures.inc()
