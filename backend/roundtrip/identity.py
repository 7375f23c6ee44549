"""User and bot ids. The one place where the key of sockets and events is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from roundtrip.errors import RoundtripError

MAX_ID_LENGTH: Final = 128
"""Longest user or bot id, in characters."""

_CANARY: Final = " canary"
"""A user id that `parse_user_id` refuses for its space: nobody else can have it."""


class IdentityError(RoundtripError):
    """An id that cannot be used: `user_id_invalid`, `bot_id_missing`, `bot_id_invalid`."""


class BotKey(NamedTuple):
    """A user's bot: what sockets are registered under and events are addressed to.

    The pair is the key. It is never joined into one string, so `a_b`+`c` and `a`+`b_c` stay different.
    Make it with `BotKey.parse`, which checks both ids. A tuple, because it is hashed several times per event.
    """

    user_id: str
    bot_id: str

    @classmethod
    def parse(cls, user_id: object, bot_id: object) -> BotKey:
        """Check both ids and pair them.

        Raises `IdentityError` with the code `user_id_invalid`, `bot_id_missing` or `bot_id_invalid`.
        """
        user = parse_user_id(user_id)
        if bot_id is None or bot_id == "":
            raise IdentityError("bot_id_missing", "A botId is needed to know which bot's events to send.")
        return cls(user, _checked(bot_id, "bot_id_invalid", "botId"))

    @classmethod
    def canary(cls, node: str) -> BotKey:
        """The key of a node's canary: no caller's ids make one like it."""
        return cls(_CANARY, node)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user, as `roundtrip.auth` returns it. `expires_at`: seconds since the epoch, None for never.
    `key` is the only one that it may have; None where the bot id is the client's to name."""

    user_id: str
    expires_at: float | None = None
    key: BotKey | None = None


def parse_user_id(user_id: object) -> str:
    """Return the user id as given, or raise `IdentityError` with `user_id_invalid`."""
    return _checked(user_id, "user_id_invalid", "userId")


def _checked(value: object, code: str, name: str) -> str:
    if not isinstance(value, str):
        raise IdentityError(code, f"{name} must be a string.")
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise IdentityError(code, f"{name} must have 1 to {MAX_ID_LENGTH} characters.")
    if not value.isprintable() or value != value.strip():
        raise IdentityError(code, f"{name} must be printable, without spaces at its ends.")
    return value
