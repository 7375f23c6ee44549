"""Request bodies and queries: bounded, then typed."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from roundtrip.api.problems import Problem
from roundtrip.auth.authenticators import Authenticator, AuthError, Credentials
from roundtrip.auth.service_keys import ALL_SCOPES, Scope, ServiceKeys
from roundtrip.identity import parse_user_id
from roundtrip.telemetry.redaction import mask_quoted

_T = TypeVar("_T", bound=msgspec.Struct)

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class BodyLimits(msgspec.Struct, frozen=True):
    """Bytes, levels of nesting, and seconds until the whole body must be there."""

    size: int = 65_536
    depth: int = 16
    seconds: float = 10.0


async def read_body(request: web.Request, limits: BodyLimits) -> bytes:
    """The body, or a `Problem`: `body_too_large`, `slow_request`."""
    declared = request.content_length
    if declared is not None and declared > limits.size:
        raise _too_large(limits)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limits.size:
                    raise _too_large(limits)
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(
            "slow_request", f"The body must arrive within {limits.seconds:g} s.", 408, headers={"Connection": "close"}
        ) from None
    except (web.RequestPayloadError, ValueError):
        raise Problem("body_invalid", "The body's encoding or framing is broken.", 400) from None
    return b"".join(chunks)


def parse_object(body: bytes, kind: type[_T], limits: BodyLimits) -> _T:
    """A JSON object as `kind`; an empty body is the empty object. Raises `Problem`: `body_invalid`, `json_too_deep`."""
    if not body.strip():
        body = b"{}"
    if depth_of(body, limits.depth) > limits.depth:
        raise Problem("json_too_deep", f"The body may be nested {limits.depth} levels deep.", 400)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("body_invalid", f"The body must be a JSON object: {_why(error)}.", 400) from None


def parse_query(request: web.Request, kind: type[_T]) -> _T:
    """The query as `kind`. Raises `Problem` with `query_invalid`; unknown names are ignored."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem("query_invalid", f"The query is wrong: {_why(error)}.", 400) from None


def depth_of(body: bytes, enough: int) -> int:
    """How deeply JSON is nested; stops counting past `enough`."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    depth = deepest = 0
    for byte in _STRING.sub(b"", body):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > enough:
                break
        elif byte in b"]}":
            depth -= 1
    return deepest


def _too_large(limits: BodyLimits) -> Problem:
    return Problem("body_too_large", f"The body may have {limits.size} bytes.", 413, headers={"Connection": "close"})


def _why(error: Exception) -> str:
    return mask_quoted(str(error)).rstrip(".") if isinstance(error, msgspec.MsgspecError) else "it is not UTF-8 JSON"


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


class CallerIdentification:
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
