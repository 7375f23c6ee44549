"""Whether a socket may connect: who it is, and whether that user has connected too often."""

from __future__ import annotations

from backend.auth import Authenticator, AuthError, Credentials
from backend.identity import Principal
from backend.limits import Limited, Limits
from backend.sockets.handshake import Handshake, Refusal


class Admission:
    """What the socket server asks of each handshake."""

    def __init__(self, authenticator: Authenticator, limits: Limits) -> None:
        self._authenticator = authenticator
        self._limits = limits

    async def __call__(self, shake: Handshake) -> Principal:
        """Raises `Refusal`, or `IdentityError` with `user_id_invalid`."""
        principal = await self.identify(shake)
        try:
            self._limits.handshake_of(principal.user_id)
        except Limited as limited:
            raise Refusal(limited.code, limited.message) from None
        return principal

    async def identify(self, shake: Handshake) -> Principal:
        """Who it is, without counting it: for a socket that renews its token."""
        try:
            return await self._authenticator.user(Credentials(shake.token, shake.user_id))
        except AuthError as error:
            raise Refusal(error.code, error.message) from None
