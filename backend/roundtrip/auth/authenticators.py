"""Authentication: a claimed id on loopback, a verified token elsewhere, or the key of a service.

Sockets authenticate `Credentials`, HTTP requests go through `CallerIdentification`, which adds service keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import jwt
import msgspec
from aiohttp import web

from roundtrip.auth import jwks
from roundtrip.auth.jwks import KeySource, KeysUnavailable, VerifyingKey
from roundtrip.auth.service_keys import ALL_SCOPES, Scope, ServiceKeys
from roundtrip.clock import SYSTEM
from roundtrip.errors import RoundtripError
from roundtrip.identity import IdentityError, Principal, parse_user_id
from roundtrip.settings import Settings

MAX_TOKEN: Final = 8192
"""Longest token that is parsed, in characters."""

MAX_LIFETIME: Final = 10 * 366 * 86_400.0
"""Seconds that a token may still be valid: a later expiry is a mistake, and may not be representable as a date."""


class AuthError(RoundtripError):
    """The caller is refused: `unauthorized`, `forbidden` or `unavailable`.

    The message is for the caller, and reveals nothing about other users' bots.
    """


class Credentials(msgspec.Struct, frozen=True):
    """What a caller presents, unchecked: a token, and the user id that it claims."""

    token: object = None
    user_id: object = None


class Authenticator(Protocol):
    """Turns credentials into a principal."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Raises `AuthError`, or `IdentityError` with `user_id_invalid`."""

    async def close(self) -> None:
        """Cancel background work."""


class TrustedAuthenticator:
    """Takes the claimed user id as it is. Only for listeners that only this machine can reach."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        return Principal(parse_user_id(credentials.user_id))

    async def close(self) -> None:
        pass


class _Claims(msgspec.Struct):
    sub: str
    exp: float
    azp: str | None = None


def _what_is_wrong(error: Exception) -> str:
    """A sentence on a token that was refused, for the one who has to get another. It repeats nothing of the token."""
    match error:
        case jwt.ExpiredSignatureError():
            return "The token has expired; get a new one."
        case jwt.InvalidAudienceError():
            return "The token is for another audience (claim aud)."
        case jwt.InvalidIssuerError():
            return "The token is from another issuer (claim iss)."
        case jwt.ImmatureSignatureError():
            return "The token is not valid yet (claim nbf or iat)."
        case jwt.MissingRequiredClaimError():
            return f"The token lacks the claim {error.claim}."
        case jwt.InvalidSignatureError():
            return "The token's signature does not match the issuer's key."
        case _:
            return "The token is not valid."


class JwtAuthenticator:
    """Verifies tokens: signature, issuer, audience, expiry, and that a claimed user id is the token's subject."""

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str | None,
        audience: str | None,
        authorized_parties: frozenset[str] = frozenset(),
        leeway: float = 30.0,
    ) -> None:
        """`leeway` is in seconds, for clocks that differ. A token's `azp` must be one of `authorized_parties`, if any
        are given; Clerk puts the page's origin there."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._parties = authorized_parties
        self._leeway = leeway

    async def authenticate(self, credentials: Credentials) -> Principal:
        claims = await self._claims(credentials.token)
        try:
            user_id = parse_user_id(claims.sub)
        except IdentityError:
            raise AuthError("unauthorized", "The token names no valid user (claim sub).") from None
        if credentials.user_id is not None and credentials.user_id != user_id:
            raise AuthError("forbidden", "The userId given is not the token's own.")
        if not claims.exp <= SYSTEM.wall() + MAX_LIFETIME:
            raise AuthError("unauthorized", "The token expires too far in the future.")
        return Principal(user_id, claims.exp)

    async def close(self) -> None:
        await self._keys.close()

    async def _claims(self, token: object) -> _Claims:
        if not isinstance(token, str) or not token:
            raise AuthError("unauthorized", "No token was sent.")
        if len(token) > MAX_TOKEN or not token.isascii():
            raise AuthError("unauthorized", "This is not a token that can be read: a JWT is expected.")
        key = await self._key(token)
        try:
            decoded = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],  # the key's own: never the one that the token names
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
            claims = msgspec.convert(decoded, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError, OverflowError) as error:
            raise AuthError("unauthorized", _what_is_wrong(error)) from None
        if self._parties and claims.azp not in self._parties:
            raise AuthError("unauthorized", "The token is for another application (claim azp).")
        return claims

    async def _key(self, token: str) -> VerifyingKey:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise AuthError("unauthorized", "This is not a token that can be read: a JWT is expected.") from None
        try:
            key = await self._keys.key(kid)
        except KeysUnavailable as error:
            raise AuthError(
                "unavailable", "Tokens cannot be verified at the moment; try again.", error.retry_after
            ) from None
        if key is None:
            raise AuthError("unauthorized", "The token is signed with an unknown key.")
        return key


def make_authenticator(settings: Settings) -> Authenticator:
    """The authenticator that the settings name. Raises `ValueError` for a public key that cannot be read."""
    if settings.auth == "trusted":
        return TrustedAuthenticator()
    keys: jwks.KeySource
    if settings.jwks_url is not None:
        keys = jwks.KeySet(
            partial(jwks.fetch, settings.jwks_url), outage=settings.jwks_outage, empty_grace=settings.jwks_empty_grace
        )
    elif settings.jwt_public_key is not None:
        keys = jwks.OneKey(settings.jwt_public_key.get_secret_value())
    else:
        raise ValueError("jwt needs keys to verify tokens with")  # the settings were validated
    return JwtAuthenticator(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        authorized_parties=frozenset(settings.jwt_authorized_parties),
        leeway=settings.jwt_leeway,
    )


@dataclass(frozen=True, slots=True)
class Caller:
    """The user whose bots the call is about, and what may be done with them. `service` names a service caller."""

    user_id: str
    scopes: frozenset[Scope] = ALL_SCOPES
    service: str | None = None

    def require(self, scope: Scope) -> None:
        """Raises `AuthError` with `forbidden`."""
        if scope not in self.scopes:
            raise AuthError("forbidden", f"This service key does not have the scope {scope}.")


class CallerIdentification:
    """Identifies the caller of an HTTP request: a user, or a service that acts for one.

    `trusted` takes the user from `X-User-Id`, else a bearer token proves it. `X-Api-Key` always names a service.
    """

    def __init__(self, authenticator: Authenticator, services: ServiceKeys, *, trusted: bool) -> None:
        self._authenticator = authenticator
        self._services = services
        self._trusted = trusted

    async def identify(self, request: web.Request) -> Caller:
        """Raises `AuthError`, or `IdentityError` with `user_id_invalid`."""
        claimed = request.headers.get("X-User-Id")
        api_key = request.headers.get("X-Api-Key")
        if api_key is not None:
            return self._service(api_key, claimed)
        if self._trusted:
            if claimed is None:
                raise AuthError("unauthorized", "The header X-User-Id is missing.")
            principal = await self._authenticator.authenticate(Credentials(user_id=claimed))
        else:
            principal = await self._authenticator.authenticate(Credentials(_bearer(request), claimed))
        return Caller(principal.user_id)

    def _service(self, api_key: str, claimed: str | None) -> Caller:
        service = self._services.find(api_key)
        if service is None:
            raise AuthError("unauthorized", "The service key is unknown.")
        return Caller(parse_user_id(claimed), service.scopes, service.name)


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
