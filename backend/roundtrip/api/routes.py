"""The route table: one row is served, documented and tested alike.

Caller, scope, query and body (bounded in bytes, nesting and time) are checked before a row's handler runs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from opentelemetry.trace import SpanKind

from roundtrip.api.problems import Problem, response_to
from roundtrip.auth.authenticators import Caller, CallerIdentification
from roundtrip.auth.service_keys import Scope
from roundtrip.identity import BotKey, IdentityError
from roundtrip.telemetry.redaction import address_hash, bot_hash, mask_quoted

_T = TypeVar("_T", bound=msgspec.Struct)

NO_STORE: Final = {"Cache-Control": "no-store"}
"""Responses hold secrets, and are true for a moment only."""

_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)


class BodyLimits(msgspec.Struct, frozen=True):
    """Bytes, levels of nesting, and seconds until the whole body must be there."""

    size: int = 65_536
    depth: int = 16
    seconds: float = 10.0


class NoInput(msgspec.Struct, frozen=True):
    """A request without body or query."""


@dataclass(slots=True)
class Call:
    """One checked request. `caller` is None on a route without a scope; `traceparent` is that of the request's span,
    None without one."""

    request: web.Request
    caller: Caller | None
    query: msgspec.Struct
    body: msgspec.Struct
    traceparent: str | None

    @property
    def user(self) -> Caller:
        """The caller of a route with a scope."""
        if self.caller is None:
            raise LookupError("this route does not identify its caller")
        return self.caller

    def key(self) -> BotKey:
        """The caller's own bot that the path names. Raises `IdentityError`."""
        if not _decodes(self.request.rel_url.raw_path):
            raise IdentityError("bot_id_invalid", "botId must be UTF-8, percent-encoded.")
        return BotKey.parse(self.user.user_id, self.request.match_info["bot_id"])

    def path(self, name: str) -> str:
        """A parameter of the path, decoded."""
        return self.request.match_info[name]

    def query_as(self, kind: type[_T]) -> _T:
        """The query, which the route declares to be of this type."""
        if not isinstance(self.query, kind):
            raise TypeError(f"this route's query is not {kind.__name__}")
        return self.query

    def body_as(self, kind: type[_T]) -> _T:
        """The body, which the route declares to be of this type."""
        if not isinstance(self.body, kind):
            raise TypeError(f"this route's body is not {kind.__name__}")
        return self.body


@dataclass(frozen=True, slots=True)
class Route:
    """One row. `path` has its parameters in braces. Without a `scope` the caller is not identified. `problems` are the
    codes of this route's own, besides those that every route has."""

    method: str
    path: str
    name: str
    summary: str
    handle: Callable[[Call], Awaitable[msgspec.Struct]]
    response: type[msgspec.Struct]
    status: int = 200
    scope: Scope | None = None
    query: type[msgspec.Struct] = NoInput
    body: type[msgspec.Struct] = NoInput
    traced: bool = False
    """Whether a request is a span of its own: those that cause something."""
    problems: tuple[str, ...] = ()


class RequestSpan(Protocol):
    """The span of one request. `traceparent` is the context for whatever the request causes."""

    @property
    def traceparent(self) -> str: ...

    def set(self, name: str, value: str | int) -> None: ...

    def fail(self, error_type: str) -> None: ...


class Tracer(Protocol):
    """Makes spans; tests record them without an SDK."""

    def span(
        self,
        name: str,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        tracestate: str | None = None,
    ) -> AbstractContextManager[RequestSpan]:
        """A span around a block. `name` is a template, never an id; `parent` a traceparent and `tracestate` what came
        with it, even wrong ones."""


class Dispatcher:
    """Serves routes: identifies, checks the scope, reads query and body, encodes the response."""

    def __init__(
        self,
        callers: CallerIdentification | None,
        tracer: Tracer | None,
        limits: BodyLimits,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        """`callers` may be None where no route has a scope; `on_refused(limit)` counts what exceeded a limit."""
        self._callers = callers
        self._tracer = tracer
        self._limits = limits
        self._on_refused = on_refused

    def add(self, app: web.Application, routes: Sequence[Route]) -> None:
        for route in routes:
            # An empty id is refused by its own code, not as an unknown address.
            path = route.path.replace("{bot_id}", "{bot_id:[^/]*}")
            app.router.add_route(route.method, path, self._handler(route))

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            with self._span(route, request) as span:
                if span is not None:
                    _describe(span, route, request)
                response = await self._respond(route, request, None if span is None else span.traceparent)
                if span is not None:
                    span.set("http.response.status_code", response.status)
                    if response.status >= 500:
                        span.fail(str(response.status))
            return response

        return handler

    def _span(self, route: Route, request: web.Request) -> AbstractContextManager[RequestSpan | None]:
        if self._tracer is None or not route.traced:
            return nullcontext()
        name = f"{route.method} {route.path}"
        headers = request.headers
        state = ",".join(headers.getall("tracestate", ()))
        return self._tracer.span(name, headers.get("traceparent"), SpanKind.SERVER, tracestate=state or None)

    async def _respond(self, route: Route, request: web.Request, traceparent: str | None) -> web.Response:
        try:
            call = await self._check(route, request, traceparent)
            result = await route.handle(call)
        except Exception as error:  # noqa: BLE001  # every error becomes a problem document, the unforeseen is logged
            response = response_to(error, self._on_refused)
        else:
            response = web.Response(
                body=msgspec.json.encode(result), status=route.status, content_type="application/json"
            )
        response.headers.update(NO_STORE)
        return response

    async def _check(self, route: Route, request: web.Request, traceparent: str | None) -> Call:
        caller: Caller | None = None
        if route.scope is not None:
            if self._callers is None:
                raise LookupError("a route with a scope needs caller identification")
            caller = await self._callers.identify(request)
            caller.require(route.scope)
        query = parse_query(request, route.query)
        if route.body is NoInput:
            return Call(request, caller, query, NoInput(), traceparent)
        body = parse_object(await read_body(request, self._limits), route.body, self._limits)
        return Call(request, caller, query, body, traceparent)


async def read_body(request: web.Request, limits: BodyLimits) -> bytes:
    """The whole body. Raises `Problem`: `body_too_large`, `slow_request`, `body_invalid`."""
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
        raise Problem("body_invalid", "The body's encoding or framing is invalid.", 400) from None
    return b"".join(chunks)


def parse_object(body: bytes, kind: type[_T], limits: BodyLimits) -> _T:
    """A JSON object as `kind`; an empty body is the empty object. Raises `Problem`: `body_invalid`, `json_too_deep`."""
    if not body.strip():
        body = b"{}"
    if nesting(body, limits.depth) > limits.depth:
        raise Problem("json_too_deep", f"The body may be nested at most {limits.depth} levels deep.", 400)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("body_invalid", f"The body must be a JSON object: {_cause(error)}.", 400) from None


def parse_query(request: web.Request, kind: type[_T]) -> _T:
    """The query as `kind`; unknown names are ignored. Raises `Problem` with `query_invalid`."""
    try:
        return msgspec.convert(dict(request.query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem("query_invalid", f"The query is invalid: {_cause(error)}.", 400) from None


def nesting(body: bytes, limit: int) -> int:
    """How deeply JSON is nested; stops counting past `limit`."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return 0
    depth = deepest = 0
    for byte in _STRING.sub(b"", body):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > limit:
                break
        elif byte in b"]}":
            depth -= 1
    return deepest


def _describe(span: RequestSpan, route: Route, request: web.Request) -> None:
    """The stable attributes of HTTP. Ids in the path and the peer's address are personal: hashes stand for them. The
    query and the user agent are left out."""
    bot_id = request.match_info.get("bot_id")
    attributes: dict[str, str | int | None] = {
        "http.request.method": route.method,
        "http.route": route.path,
        "url.scheme": request.scheme,
        "url.path": route.path if bot_id is None else route.path.replace("{bot_id}", bot_hash(bot_id)),
        "server.address": request.url.host,
        "server.port": request.url.port,
        "network.peer.address": None if request.remote is None else address_hash(request.remote),
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
    }
    for name, value in attributes.items():
        if value is not None:
            span.set(name, value)


def _decodes(raw_path: str) -> bool:
    """Whether a path is valid percent-encoded UTF-8: the router leaves what is not as it is, and that could be the
    spelling of another id."""
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return _BROKEN_ESCAPE.search(raw_path) is None


def _too_large(limits: BodyLimits) -> Problem:
    detail = f"The body may have at most {limits.size} bytes."
    return Problem("body_too_large", detail, 413, headers={"Connection": "close"})


def _cause(error: Exception) -> str:
    return mask_quoted(str(error)).rstrip(".") if isinstance(error, msgspec.MsgspecError) else "it is not UTF-8 JSON"
