"""What a route is: one row that is served, documented and tested alike. NoInput reaches a handler unchecked."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import web
from opentelemetry.trace import SpanKind

from roundtrip.api.problems import problem_of
from roundtrip.api.requests import BodyLimits, Caller, CallerIdentification, parse_object, parse_query, read_body
from roundtrip.api.schemas import RequestStep, RequestTracer
from roundtrip.auth.service_keys import Scope
from roundtrip.identity import BotKey, IdentityError

_T = TypeVar("_T", bound=msgspec.Struct)

NO_STORE: Final = {"Cache-Control": "no-store"}
"""Answers hold secrets, and are true for a moment only."""


class NoInput(msgspec.Struct, frozen=True):
    """A request without body or query."""


@dataclass(slots=True)
class Call:
    """One request, checked: who calls, with which query and body."""

    request: web.Request
    caller: Caller | None
    query: msgspec.Struct
    body: msgspec.Struct
    traceparent: str | None

    @property
    def user(self) -> Caller:
        """The caller of a route with a scope."""
        if self.caller is None:
            raise LookupError("this route asks nobody who they are")
        return self.caller

    def key(self) -> BotKey:
        """The caller's own bot that the path names. Raises `IdentityError`."""
        if not _readable(self.request.rel_url.raw_path):
            raise IdentityError("bot_id_invalid", "botId must be UTF-8, percent-encoded.")
        return BotKey.parse(self.user.user_id, self.request.match_info["bot_id"])

    def path(self, name: str) -> str:
        return self.request.match_info[name]

    def asks(self, kind: type[_T]) -> _T:
        """The query, which the route says is of this kind."""
        if not isinstance(self.query, kind):
            raise TypeError(f"this route's query is not {kind.__name__}")
        return self.query

    def says(self, kind: type[_T]) -> _T:
        """The body, which the route says is of this kind."""
        if not isinstance(self.body, kind):
            raise TypeError(f"this route's body is not {kind.__name__}")
        return self.body


_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def _readable(raw_path: str) -> bool:
    """Whether a path decodes: what does not is left as it is by the router, and would be another id's spelling."""
    try:
        unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return False
    return _ESCAPE.search(raw_path) is None


@dataclass(frozen=True, slots=True)
class Route:
    """`path` has its parameters in braces. `scope` None lets anybody in. `problems` are the codes of this route's own,
    beside those that every route has."""

    method: str
    path: str
    name: str
    summary: str
    handle: Callable[[Call], Awaitable[msgspec.Struct]]
    answer: type[msgspec.Struct]
    status: int = 200
    scope: Scope | None = None
    query: type[msgspec.Struct] = NoInput
    body: type[msgspec.Struct] = NoInput
    traced: bool = False
    """Whether a request is a span of its own: those that cause something."""
    problems: tuple[str, ...] = ()


class Dispatcher:
    """Serves routes: identifies, checks the scope, reads query and body, encodes the answer."""

    def __init__(self, callers: CallerIdentification | None, tracer: RequestTracer | None, limits: BodyLimits) -> None:
        """`callers` may be None where no route has a scope."""
        self._callers = callers
        self._tracer = tracer
        self._limits = limits

    def add(self, app: web.Application, routes: Sequence[Route]) -> None:
        for route in routes:
            # An empty id is refused by its own code, not as an unknown address.
            path = route.path.replace("{bot_id}", "{bot_id:[^/]*}")
            app.router.add_route(route.method, path, self._handler(route))

    def _handler(self, route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handler(request: web.Request) -> web.StreamResponse:
            with self._span(route, request) as step:
                response = await self._answer(route, request, None if step is None else step.traceparent)
                if step is not None:
                    step.set("http.request.method", route.method)
                    step.set("http.route", route.path)
                    step.set("http.response.status_code", response.status)
                    if response.status >= 500:
                        step.fail(str(response.status))
            return response

        return handler

    def _span(self, route: Route, request: web.Request) -> AbstractContextManager[RequestStep | None]:
        if self._tracer is None or not route.traced:
            return nullcontext()
        name = f"{route.method} {route.path}"
        return self._tracer.span(name, request.headers.get("traceparent"), SpanKind.SERVER)

    async def _answer(self, route: Route, request: web.Request, traceparent: str | None) -> web.Response:
        try:
            call = await self._check(route, request, traceparent)
            answer = await route.handle(call)
        except Exception as error:  # noqa: BLE001  # every error becomes a problem document, the unforeseen is logged
            response = problem_of(error).response()
        else:
            response = web.Response(
                body=msgspec.json.encode(answer), status=route.status, content_type="application/json"
            )
        response.headers.update(NO_STORE)
        return response

    async def _check(self, route: Route, request: web.Request, traceparent: str | None) -> Call:
        caller: Caller | None = None
        if route.scope is not None:
            if self._callers is None:
                raise LookupError("nobody finds out who calls")
            caller = await self._callers.identify(request)
            caller.require(route.scope)
        query = parse_query(request, route.query)
        if route.body is NoInput:
            return Call(request, caller, query, NoInput(), traceparent)
        body = parse_object(await read_body(request, self._limits), route.body, self._limits)
        return Call(request, caller, query, body, traceparent)
