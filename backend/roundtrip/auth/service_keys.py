"""API keys of services: programs that act for users, with the scopes that they were granted."""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from typing import Final

import msgspec


class Scope(enum.StrEnum):
    """What a caller may do."""

    LINKS_READ = "links.read"
    LINKS_CODES = "links.codes"
    """QR and pairing codes too: whoever has one can link the account to a device of their own."""
    LINKS_WRITE = "links.write"
    EVENTS_READ = "events.read"
    TRACES_WRITE = "traces.write"
    """Spans of what a page did with an event."""


ALL_SCOPES: Final = frozenset(Scope)
"""What a user may do with their own bots."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9_-]{1,32}")


class ServiceKey(msgspec.Struct, frozen=True):
    """A service caller. Only the SHA-256 of its key is known here."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes


class ServiceKeys:
    """The keys of the settings: `name:scope+scope:sha256hex`, comma list."""

    def __init__(self, keys: tuple[ServiceKey, ...] = ()) -> None:
        self._keys = keys

    @classmethod
    def parse(cls, text: str) -> ServiceKeys:
        """Raises `ValueError` with a sentence that quotes no key."""
        keys = tuple(
            _parse_key(part.strip(), position) for position, part in enumerate(text.split(","), 1) if part.strip()
        )
        if len({key.name for key in keys}) != len(keys):
            raise ValueError("two service keys have the same name")
        return cls(keys)

    def find(self, key: str) -> ServiceKey | None:
        """The key's owner, None if it is unknown. Compares with every key, in constant time."""
        digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
        match = None
        for candidate in self._keys:
            if hmac.compare_digest(candidate.digest, digest):
                match = candidate
        return match


def _parse_key(text: str, position: int) -> ServiceKey:
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"service key {position} must be name:scope+scope:sha256hex")
    name, scopes, digest = parts
    if not _NAME.fullmatch(name):
        raise ValueError(f"the name of service key {position} must be 1 to 32 of a-z, 0-9, _ and -")
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"service key {name!r} needs the SHA-256 of its key, as 64 lower-case hex digits")
    try:
        granted = frozenset(Scope(scope) for scope in scopes.split("+"))
    except ValueError:
        raise ValueError(f"service key {name!r} has a scope that is none of {', '.join(Scope)}") from None
    return ServiceKey(name, granted, bytes.fromhex(digest))
