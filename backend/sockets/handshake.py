"""What a client says when it connects: in `auth`, or in the query as the older frontend does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec


class Handshake(msgspec.Struct, frozen=True):
    """Unchecked: whoever uses a field checks it. `remote` is the client's address."""

    token: object
    user_id: object
    bot_id: object
    must_ack: bool
    traceparent: str | None
    remote: str


class Refusal(Exception):  # noqa: N818  # it is an answer, not a fault
    """The client may not connect. `code` is public and part of the contract."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


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
