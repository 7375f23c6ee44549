"""Errors as RFC 9457 problem documents: the one place where an exception becomes a response."""

from __future__ import annotations

import http
import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog
from aiohttp import web

from roundtrip.errors import RoundtripError

log = structlog.get_logger(__name__)

CONTENT_TYPE: Final = "application/problem+json"

STATUS: Final = {
    "action_impossible": 409,
    "another_number_linked": 409,
    "banned": 409,
    "body_invalid": 400,
    "body_too_large": 413,
    "bot_id_invalid": 400,
    "bot_id_missing": 400,
    "browser_traces_off": 404,
    "client_outdated": 503,
    "event_not_found": 404,
    "fault_parameter_invalid": 400,
    "fault_unknown": 404,
    "faults_forbidden": 403,
    "forbidden": 403,
    "internal_error": 500,
    "json_too_deep": 400,
    "link_not_found": 404,
    "not_simulated": 409,
    "outbox_full": 503,
    "outbox_unavailable": 503,
    "phone_number_invalid": 400,
    "query_invalid": 400,
    "rate_limited": 429,
    "shutting_down": 503,
    "slow_request": 408,
    "store_unavailable": 503,
    "too_many_links": 429,
    "unauthorized": 401,
    "unavailable": 503,
    "user_id_invalid": 400,
}
"""The HTTP status of each code of a `RoundtripError`. No other module decides one."""

LIMIT_OF: Final = {
    "body_too_large": "body_size",
    "json_too_deep": "json_depth",
    "slow_request": "slow_request",
    "too_many_links": "links_per_user",
}
"""The limit (a label of `roundtrip_rate_limited_total`) that a code stands for. Other limits count their refusals."""

_RETRY_AFTER: Final = {"rate_limited": 60.0, "outbox_full": 5.0, "outbox_unavailable": 5.0, "store_unavailable": 5.0}
"""Default of `Retry-After`, in seconds, where the error has none."""


class ProblemDocument(msgspec.Struct, frozen=True):
    """What the caller reads. `code` is for programs, `detail` a sentence for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class Problem(Exception):  # noqa: N818  # a response, not a fault
    """A request that is refused. `retry_after` is in seconds."""

    def __init__(
        self,
        code: str,
        detail: str,
        status: int = 400,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status
        self.retry_after = retry_after
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        document = ProblemDocument(
            f"urn:roundtrip:problem:{self.code}",
            self.code.replace("_", " ").capitalize(),
            self.status,
            self.detail,
            self.code,
        )
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == http.HTTPStatus.UNAUTHORIZED:
            headers.setdefault("WWW-Authenticate", "Bearer")
        return web.Response(
            body=msgspec.json.encode(document), status=self.status, content_type=CONTENT_TYPE, headers=headers
        )


def response_to(error: Exception, on_refused: Callable[[str], None] | None) -> web.Response:
    """The response to an error; `on_refused(limit)` counts one that says that a limit was exceeded."""
    problem = problem_of(error)
    if on_refused is not None and (limit := LIMIT_OF.get(problem.code)) is not None:
        on_refused(limit)
    return problem.response()


def problem_of(error: Exception) -> Problem:
    """The response to an error. An unforeseen one is logged, and its response reveals nothing of it."""
    match error:
        case Problem():
            return error
        case RoundtripError() if error.code in STATUS:
            wait = error.retry_after or _RETRY_AFTER.get(error.code)
            return Problem(error.code, error.message, STATUS[error.code], retry_after=wait)
        case web.RequestPayloadError():
            return Problem("body_invalid", "The body's encoding or framing is invalid.", 400)
        case web.HTTPException():
            return _of_aiohttp(error)
        case _:
            log.error("request_failed", exc_info=error)
            return Problem("internal_error", "An internal error occurred; it has been logged.", 500)


_AIOHTTP: Final = {
    400: ("request_invalid", "The request cannot be understood."),
    404: ("not_found", "No such resource."),
    405: ("method_not_allowed", "This address does not answer to this method."),
    413: ("body_too_large", "The body is too large."),
    417: ("expectation_failed", "Only `Expect: 100-continue` is understood."),
}


def _of_aiohttp(error: web.HTTPException) -> Problem:
    code, detail = _AIOHTTP.get(error.status, ("request_failed", http.HTTPStatus(error.status).phrase))
    allow = error.headers.get("Allow")
    return Problem(code, detail, error.status, headers={"Allow": allow} if allow else None)
