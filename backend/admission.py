"""From the settings to who may connect: the authenticator, and the gate of the socket server."""

from __future__ import annotations

from functools import partial

from backend import jwks
from backend.auth import Authenticator, AuthError, Credentials, JwtAuthenticator, TrustedAuthenticator
from backend.identity import Principal
from backend.limits import Limited, Limits
from backend.settings import Settings
from backend.sockets.handshake import Handshake, Refusal


def authenticator(settings: Settings) -> Authenticator:
    """How callers prove who they are. Raises `ValueError` for a public key that cannot be read."""
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
        raise ValueError("jwt needs keys to verify tokens with")  # the settings see to it
    return JwtAuthenticator(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        authorized_parties=frozenset(settings.jwt_authorized_parties),
        leeway=settings.jwt_leeway,
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
            return await self._identity.user(Credentials(shake.token, shake.user_id))
        except AuthError as error:
            raise Refusal(error.code, error.message) from None
