"""The key to the admin listener, for where others than this machine reach it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from backend.api.problems import Problem


class AdminKey:
    """Asks for the key: as a bearer token (Prometheus), or as the password that a browser asks its user for."""

    def __init__(self, key: str, free: Collection[str]) -> None:
        """`free` are paths that need no key: probes have none. Raises `ValueError` for an empty key, which would let
        everybody in."""
        if not key:
            raise ValueError("an empty key opens to everybody")
        self._digest = _digest(key)
        self._free = frozenset(free)

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path not in self._free and not self._opens(request.headers.get("Authorization", "")):
                raise Problem(
                    "unauthorized",
                    "The admin key is needed.",
                    401,
                    headers={"WWW-Authenticate": 'Basic realm="roundtrip admin", charset="UTF-8"'},
                )
            return await handler(request)

        return ask

    def _opens(self, authorization: str) -> bool:
        given = _given(authorization)
        return given is not None and hmac.compare_digest(_digest(given), self._digest)


def _given(authorization: str) -> str | None:
    scheme, _, rest = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            try:
                decoded = base64.b64decode(rest.strip(), validate=True).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                return None
            return decoded.partition(":")[2]
        case _:
            return None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
