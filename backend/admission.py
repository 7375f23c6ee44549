"""From the settings to who may connect: the authenticator, and the gate of the socket server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from backend import jwks
from backend.auth import Authenticator, AuthError, Credentials, JwtAuthenticator, TrustedAuthenticator
from backend.identity import Principal
from backend.settings import Settings
from backend.sockets.handshake import Handshake, Refusal


def authenticator(settings: Settings) -> Authenticator:
    """How callers prove who they are. Raises `ValueError` for a public key that cannot be read."""
    if settings.auth == "trusted":
        return TrustedAuthenticator()
    keys: jwks.KeySource
    if settings.jwks_url is not None:
        keys = jwks.KeySet(partial(jwks.fetch, settings.jwks_url))
    elif settings.jwt_public_key is not None:
        keys = jwks.OneKey(settings.jwt_public_key.get_secret_value())
    else:
        raise ValueError("jwt needs keys to verify tokens with")  # the settings see to it
    return JwtAuthenticator(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        authorized_parties=frozenset(settings.jwt_authorized_parties),
        leeway=settings.jwt_leeway,
    )


def gate(identity: Authenticator) -> Callable[[Handshake], Awaitable[Principal]]:
    """Lets a handshake in as somebody, or raises `Refusal` or `IdentityError`."""

    async def admit(shake: Handshake) -> Principal:
        try:
            return await identity.user(Credentials(shake.token, shake.user_id))
        except AuthError as error:
            raise Refusal(error.code, error.message) from None

    return admit
