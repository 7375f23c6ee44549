"""aiohttp's handler of one connection, with problem documents in place of aiohttp's own error responses.

A request that the parser refuses never reaches the application. aiohttp's response to it is plain text, repeats what
was sent (a malformed Authorization header too) and names its version; the problem document repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD

from roundtrip.api.problems import CONTENT_TYPE, Problem, problem_of
from roundtrip.limits.loop_turns import LoopTurns

MAX_LINE: Final = 16_384
"""Bytes of a request's first line: a long id is refused by name, not by the parser."""

MAX_FIELD: Final = 12_288
"""Bytes of one header: a token has 8 KiB at most. Not `MAX_LINE`, so that the parser's error tells the two apart."""

_SUPPORTED: Final = frozenset({HttpVersion10, HttpVersion11})


class HttpHandler(web.RequestHandler):
    """One connection."""

    __slots__ = ("_handle", "_malformed", "_turns")

    def __init__(self, server: web.Server, malformed: Callable[[str], None], turns: LoopTurns) -> None:
        """`server` is aiohttp's, whose settings it adopts. `malformed(reason)` is called with one of `malformed`,
        `line_too_long`, `header_too_long`, `http_version`. `turns` bounds the requests that all connections begin in
        one turn of the event loop."""
        super().__init__(server, loop=asyncio.get_running_loop(), **server._kwargs)
        self._turns = turns
        self._malformed = malformed
        self._handle: Callable[[Any], Any] = cast("Callable[[Any], Any]", server.request_handler)
        self._request_handler = self._respond

    @property
    def parsed(self) -> int:
        """Requests that were parsed so far, or refused by the parser."""
        return self._request_count

    @property
    def busy(self) -> bool:
        """Whether a request is being handled, or waits to be."""
        return self._request_in_progress or bool(self._messages)

    @property
    def upgraded(self) -> bool:
        """Whether the connection has switched to another protocol."""
        return self._upgraded or self._payload_parser is not None

    @property
    def newest_body(self) -> StreamReader | None:
        """The body of the request that was parsed last, None without one. Valid right after it was parsed."""
        body = self._messages[-1][1] if self._messages else EMPTY_PAYLOAD
        return None if body is EMPTY_PAYLOAD else body

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if request._version not in _SUPPORTED:
            return self._refuse_version(request)
        await self._turns.take()
        try:
            response: web.StreamResponse = await self._handle(request)
        except web.HTTPException as error:  # raised before the application's own middlewares, as 417 is
            if error.status < 400:
                raise
            return _response(problem_of(error))
        return response

    def _refuse_version(self, request: web.BaseRequest) -> web.StreamResponse:
        old = request._version < HttpVersion10
        request._version = HttpVersion10  # that of the response; `request.version` would keep the unsupported one
        self._malformed("http_version")
        return _response(Problem("http_version", "Only HTTP/1.1 is supported.", 400 if old else 505), close=True)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The response to a request that the parser refused, or whose exception nothing caught."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun already")
        if isinstance(exc, HttpProcessingError):
            # Its traceback holds the frame that holds the error: a cycle that keeps the whole connection
            exc.__traceback__ = exc.__context__ = exc.__cause__ = None
        if isinstance(exc, LineTooLong):
            too_long = _too_long(exc)
            self._malformed("line_too_long" if too_long.status == 414 else "header_too_long")
            return _response(too_long, close=True)
        if isinstance(exc, HttpProcessingError):
            self._malformed("malformed")
            return _response(Problem("request_malformed", "This is not a well-formed HTTP request.", 400), close=True)
        if isinstance(exc, Exception):
            return _response(problem_of(exc), close=True)
        return _response(Problem("request_failed", "The request could not be processed.", status), close=True)


class _Response(web.Response):
    """A response outside the application: without the server's name and version."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall(hdrs.SERVER, None)


def _response(problem: Problem, *, close: bool = False) -> web.Response:
    inner = problem.response()
    headers = {name: value for name, value in inner.headers.items() if name != hdrs.CONTENT_TYPE}
    response = _Response(body=inner.body, status=inner.status, content_type=CONTENT_TYPE, headers=headers)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    if close:
        response.force_close()
    return response


def _too_long(error: LineTooLong) -> Problem:
    if str(MAX_LINE) in map(str, error.args[1:]):
        return Problem("line_too_long", f"A request's first line may have at most {MAX_LINE} bytes.", 414)
    return Problem("header_too_long", f"A header may have at most {MAX_FIELD} bytes.", 431)
