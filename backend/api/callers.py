"""Who calls a route: a user with a token, a service with a key, or, on loopback, whoever they say they are."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from backend.auth import Authenticator, AuthError, Credentials
from backend.identity import parse_user_id
from backend.service_keys import ALL_SCOPES, Scope, ServiceKeys


@dataclass(frozen=True, slots=True)
class Caller:
    """The user whose bots the call is about, and what may be done with them. `service` names a service caller."""

    user_id: str
    scopes: frozenset[Scope] = ALL_SCOPES
    service: str | None = None

    def require(self, scope: Scope) -> None:
        """Raises `AuthError` with `forbidden`."""
        if scope not in self.scopes:
            raise AuthError("forbidden", f"This key was not given the scope {scope}.")


class Callers:
    """Finds out who calls."""

    def __init__(self, authenticator: Authenticator, services: ServiceKeys, *, trusted: bool) -> None:
        self._authenticator = authenticator
        self._services = services
        self._trusted = trusted

    async def identify(self, request: web.Request) -> Caller:
        """Raises `AuthError`, or `IdentityError` with `user_id_invalid`."""
        named = request.headers.get("X-User-Id")
        api_key = request.headers.get("X-Api-Key")
        if api_key is not None:
            return self._service(api_key, named)
        if self._trusted:
            if named is None:
                raise AuthError("unauthorized", "Say who you are in the header X-User-Id.")
            principal = await self._authenticator.user(Credentials(user_id=named))
        else:
            principal = await self._authenticator.user(Credentials(_bearer(request), named))
        return Caller(principal.user_id)

    def _service(self, api_key: str, named: str | None) -> Caller:
        service = self._services.find(api_key)
        if service is None:
            raise AuthError("unauthorized", "The service key is not known here.")
        return Caller(parse_user_id(named), service.scopes, service.name)


def _bearer(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
