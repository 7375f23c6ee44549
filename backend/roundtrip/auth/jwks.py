"""The token issuer's public keys: one from the settings, or a cached set from its JWKS address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from roundtrip.telemetry.redaction import message_of

log = structlog.get_logger(__name__)

FETCH_TIMEOUT: Final = 3.0
"""Seconds that fetching the keys may take."""

MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
_SUPPORTED: Final = f"RSA from {MIN_RSA_BITS} bits, P-256 or Ed25519"
_TYPES: Final = frozenset({"RSA", "EC", "OKP"})


class KeysUnavailable(Exception):  # noqa: N818  # an outcome, not a fault
    """No key was ever fetched. `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the token issuer's keys could not be fetched")
        self.retry_after = retry_after


class VerifyingKey(msgspec.Struct, frozen=True):
    """A public key and the one algorithm it is used with: RS256, ES256 or EdDSA."""

    key: Any
    algorithm: str


class KeySource(Protocol):
    """Where a token's key comes from."""

    async def key(self, kid: object) -> VerifyingKey | None:
        """The key of that id, None if there is none. Raises `KeysUnavailable`."""

    async def close(self) -> None:
        """Cancel background work."""


class OneKey:
    """The key of the settings, whichever key id a token names."""

    def __init__(self, pem: str) -> None:
        """Raises `ValueError` for anything but a public key of a supported type."""
        try:
            self._key = _verifying_key(load_pem_public_key(pem.replace("\\n", "\n").encode()))
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"must be a public key in PEM: {_SUPPORTED}") from None

    async def key(self, kid: object) -> VerifyingKey | None:
        return self._key

    async def close(self) -> None:
        pass


class KeySet:
    """The keys of a JWKS address. A new key is found at most `min_interval` seconds late.

    Keys are kept through an outage of the issuer, for `outage` seconds. An empty key set is applied after `empty_grace`
    seconds only, so that an issuer's mistake can be corrected before anybody is refused.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        max_age: float = 3600.0,
        min_interval: float = 10.0,
        outage: float = 86_400.0,
        empty_grace: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Times are in seconds. `fetch` returns the JWKS document or raises."""
        self._fetch = fetch
        self._max_age = max_age
        self._min_interval = min_interval
        self._outage = outage
        self._empty_grace = empty_grace
        self._clock = clock
        self._keys: dict[str | None, VerifyingKey] = {}
        self._fetched_at: float | None = None
        self._empty_since: float | None = None
        self._attempted_at: float | None = None
        self._refreshing: asyncio.Task[None] | None = None

    async def key(self, kid: object) -> VerifyingKey | None:
        if kid is not None and not isinstance(kid, str):
            return None
        self._drop_expired()
        found = self._find(kid)
        if found is None and self._may_fetch():
            await asyncio.shield(self._refresh())
            found = self._find(kid)
        elif found is not None and self._is_old() and self._may_fetch():
            self._refresh()  # in the background: the old key is used meanwhile
        if found is None and self._fetched_at is None:
            raise KeysUnavailable(self._min_interval)
        return found

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def _drop_expired(self) -> None:
        """Drop keys that were not confirmed for too long, or that the issuer withdrew."""
        now = self._clock()
        if self._fetched_at is not None and now - self._fetched_at >= self._outage:
            log.error("jwks_keys_too_old", kept_for=round(now - self._fetched_at), dropped=len(self._keys))
            self._keys = {}
            self._fetched_at = self._empty_since = None
        if self._keys and self._empty_since is not None and now - self._empty_since >= self._empty_grace:
            log.error("jwks_keys_withdrawn", dropped=len(self._keys))
            self._keys = {}

    def _find(self, kid: str | None) -> VerifyingKey | None:
        """The key of that id; a token without one is verified with the only key, if there is just one."""
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    def _is_old(self) -> bool:
        if self._fetched_at is None or self._empty_since is not None:
            return True  # an issuer without keys is polled again soon
        return self._clock() - self._fetched_at >= self._max_age

    def _may_fetch(self) -> bool:
        """One fetch at a time, `min_interval` apart: tokens with made-up key ids must not flood the issuer."""
        return (
            self._refreshing is not None
            or self._attempted_at is None
            or self._clock() - self._attempted_at >= self._min_interval
        )

    def _refresh(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._attempted_at = self._clock()
            self._refreshing = asyncio.create_task(self._load())
        return self._refreshing

    async def _load(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                document = await self._fetch()
            keys = parse_jwks(document)
            self._fetched_at = self._clock()
            if keys:
                self._keys = keys
                self._empty_since = None
                log.debug("jwks_fetched", keys=len(keys))
            elif self._keys and self._empty_since is None:
                self._empty_since = self._fetched_at
                log.error("jwks_empty", kept=len(self._keys), grace=self._empty_grace)
        except Exception as error:  # noqa: BLE001  # whatever went wrong with the network or the document: the old keys stay
            log.warning("jwks_fetch_failed", reason=message_of(error), kept=len(self._keys))
        finally:
            self._refreshing = None


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def parse_jwks(document: bytes) -> dict[str | None, VerifyingKey]:
    """The supported keys of a JWKS document by key id, maybe none. Raises `msgspec.DecodeError` for others."""
    entries = msgspec.json.decode(document, type=_Document).keys
    keys: dict[str | None, VerifyingKey] = {}
    for entry in entries[:MAX_KEYS]:
        if not _verifies(entry):
            continue
        kid = entry.get("kid")
        try:
            key = _verifying_key(jwt.PyJWK(entry).key)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # of an unsupported type
        if (kid is None or isinstance(kid, str)) and entry.get("alg", key.algorithm) in {key.algorithm, "Ed25519"}:
            keys[kid] = key
    return keys


def _verifies(entry: dict[str, Any]) -> bool:
    """Whether an entry may verify signatures: declared so, or without a declaration."""
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig"
        and entry.get("kty") in _TYPES
        and isinstance(operations, list)
        and "verify" in operations
    )


def _verifying_key(key: object) -> VerifyingKey:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return VerifyingKey(key, "RS256")
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return VerifyingKey(key, "ES256")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return VerifyingKey(key, "EdDSA")
    raise ValueError(f"of a kind that is not used here, which are: {_SUPPORTED}")


async def fetch(url: str) -> bytes:
    """Fetch a JWKS document. Raises `aiohttp.ClientError` or `ValueError`."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT)
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
        session.get(url, headers={"Accept": "application/json"}, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise ValueError(f"the JWKS address answered {response.status}")
        body = await response.content.read(MAX_BYTES + 1)
        while len(body) <= MAX_BYTES and not response.content.at_eof():
            body += await response.content.read(MAX_BYTES + 1 - len(body))
        if len(body) > MAX_BYTES:
            raise ValueError("the JWKS document is too large")
        return body
