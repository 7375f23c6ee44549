"""What a client meets before Engine.IO does: its address, the handshake's rate, and a deadline for what it posts."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from backend.api.problems import Problem
from backend.api.shield import SOCKET_PATH
from backend.limits import Limits
from backend.proxies import ADDRESS, Proxies


class SocketGate:
    def __init__(self, proxies: Proxies, limits: Limits | None, post_seconds: float) -> None:
        """A polling client's packets must be there within `post_seconds`. `limits` None counts nothing."""
        self._proxies = proxies
        self._limits = limits
        self._post_seconds = post_seconds

    def install(self, app: web.Application) -> None:
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
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
                    answer = await handler(request)
            except TimeoutError:
                if not limit.expired():
                    raise
            if limit.expired():  # python-engineio swallows the cancellation and answers OK
                detail = f"The packets must arrive within {self._post_seconds:g} s."
                raise Problem("slow_request", detail, 408, headers={"Connection": "close"})
            return answer

        return gate
