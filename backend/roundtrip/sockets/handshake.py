"""What a client sends when it connects: in `auth`, or in the query as the older frontend does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec

from roundtrip.errors import RoundtripError


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
