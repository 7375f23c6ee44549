"""Middlewares of every request: host check, CORS, security headers, errors as problem documents; and the limits of
Socket.IO requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict

from roundtrip.api.problems import Problem, response_to
from roundtrip.limits.addresses import ADDRESS, Proxies
from roundtrip.limits.rates import Limits
from roundtrip.origins import SETTING, Origins, names_loopback

SOCKET_PATH: Final = "/socket.io/"

_POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; "
    "img-src 'self' data:"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_NO_DOCUMENTS: Final = (SOCKET_PATH, "/static/")
"""Paths whose responses are never a document of their own, so that a policy for documents would be bytes only."""

_OF_OTHER_ORIGINS: Final = ("/api/", "/otlp/")
"""Paths that pages of the allowed origins may call."""

_ALLOWED_METHODS: Final = "GET, PUT, POST, DELETE"
_ALLOWED_HEADERS: Final = "Authorization, Content-Type, X-User-Id, X-Api-Key, traceparent, tracestate"


class RequestGuard:
    """Checks the host, answers CORS preflights, sets security headers, and turns every error into a problem document.

    `loopback_only` refuses requests that name another host: another site whose name is made to resolve to this machine
    would else be the same origin as this one (DNS rebinding).
    """

    def __init__(
        self,
        *,
        cors_origins: Collection[str] = (),
        loopback_only: bool = False,
        loopback_origins: bool = False,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        """`loopback_origins` allows pages of loopback origins of any port. `on_refused(limit)` counts a request that
        exceeded a limit."""
        self._origins = Origins(cors_origins, loopback=loopback_origins)
        self._loopback_only = loopback_only
        self._on_refused = on_refused

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())
        app.on_response_prepare.append(self._prepare)

    def _middleware(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                self._check_host(request)
                if _is_preflight(request):
                    return self._preflight(request)
                return await handler(request)
            except Exception as error:  # noqa: BLE001  # every error becomes a problem document
                return response_to(error, self._on_refused)

        return guard

    def _check_host(self, request: web.Request) -> None:
        if self._loopback_only and not _names_loopback(request.host):
            raise Problem("host_not_allowed", "In trusted mode the backend accepts loopback host names only.", 403)

    def _preflight(self, request: web.Request) -> web.Response:
        if not self._allows(request):
            raise Problem(
                "origin_not_allowed", f"Pages of this origin may not call this backend; {SETTING} allows them.", 403
            )
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: _ALLOWED_METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _ALLOWED_HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: "600",
            },
        )

    def _allows(self, request: web.Request) -> bool:
        origin = request.headers.get(hdrs.ORIGIN)
        return origin is not None and self._origins.allows(origin, request.host)

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        headers = response.headers
        headers.popall(hdrs.SERVER, None)
        if request.path.startswith(_NO_DOCUMENTS):
            headers.setdefault("X-Content-Type-Options", "nosniff")
            return
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        if request.path.startswith(_OF_OTHER_ORIGINS):
            self._cors(request, headers)

    def _cors(self, request: web.Request, headers: CIMultiDict[str]) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if self._origins:
            headers.add(hdrs.VARY, hdrs.ORIGIN)
        if origin is not None and self._allows(request):
            headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = "Retry-After, Date"


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        and request.path.startswith(_OF_OTHER_ORIGINS)
    )


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and names_loopback(name)


class SocketRequestGuard:
    """Finds each Socket.IO request's client address, counts new handshakes by it, and bounds the time of a POST."""

    def __init__(self, proxies: Proxies, limits: Limits | None, post_seconds: float) -> None:
        """A polling client's packets must be there within `post_seconds`. `limits` None counts nothing."""
        self._proxies = proxies
        self._limits = limits
        self._post_seconds = post_seconds

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not request.path.startswith(SOCKET_PATH):
                return await handler(request)
            address = self._proxies.client(request.remote, request.headers.getall("X-Forwarded-For", ()))
            request[ADDRESS] = address
            if self._limits is not None and "sid" not in request.query:
                self._limits.handshake_from(address)
            if request.method != hdrs.METH_POST:
                return await handler(request)
            limit = asyncio.timeout(self._post_seconds)
            try:
                async with limit:
                    response = await handler(request)
            except TimeoutError:
                if not limit.expired():
                    raise
            if limit.expired():  # python-engineio swallows the cancellation and responds OK
                detail = f"The packets must arrive within {self._post_seconds:g} s."
                raise Problem("slow_request", detail, 408, headers={"Connection": "close"})
            return response

        return guard
