"""How long requests take, by method, route and class of status: rate, errors and duration of each route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from roundtrip.telemetry.labels import OTHER

_METHODS: Final = frozenset(
    {hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_PUT, hdrs.METH_POST, hdrs.METH_DELETE, hdrs.METH_OPTIONS}
)
_SWITCHING: Final = 101
"""The status of a websocket, which lasts as long as its page: no duration of a request."""


def observe_durations(
    app: web.Application, observe: Callable[[str, str, str, float], None], now: Callable[[], float]
) -> None:
    """Call `observe(method, route, status_class, seconds)` for each request of an application, before it is started.

    The route is the template of its path, `other` where none matched; hence neither a path nor a method that a client
    made up can add a series. `now` is a monotonic clock in seconds. A request whose client left is not observed.
    """

    @web.middleware
    async def durations(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = now()
        response = await handler(request)
        if response.status != _SWITCHING:
            method = request.method if request.method in _METHODS else OTHER
            observe(method, route_of(request), f"{response.status // 100}xx", now() - began)
        return response

    app.middlewares.insert(0, durations)  # the outermost: what others refuse is a response too


def route_of(request: web.Request) -> str:
    """The template of the route that a request matched, without the patterns of its parameters."""
    resource = request.match_info.route.resource
    return OTHER if resource is None else resource.canonical.replace("{bot_id:[^/]*}", "{bot_id}")
