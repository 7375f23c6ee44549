"""Errors as RFC 9457 problem documents. The one place where an exception becomes an answer."""

from __future__ import annotations

import http
import math
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from aiohttp import web

from roundtrip.auth.authenticators import AuthError
from roundtrip.faults import FaultError
from roundtrip.identity import IdentityError
from roundtrip.limits.rates import Limited
from roundtrip.links.reasons import LinkError
from roundtrip.outbox.base import OutboxError

log = structlog.get_logger(__name__)

CONTENT_TYPE: Final = "application/problem+json"


class ProblemDocument(msgspec.Struct, frozen=True):
    """What the caller reads. `code` is for programs, `detail` a sentence for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str


class Problem(Exception):  # noqa: N818  # it is an answer, not a fault
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


def problem_of(error: Exception) -> Problem:
    """The answer to an error. What nobody foresaw is logged, and the caller learns nothing of it."""
    match error:
        case Problem():
            return error
        case IdentityError():
            return Problem(error.code, error.message, 400)
        case AuthError():
            return Problem(error.code, error.message, error.status, retry_after=error.retry_after)
        case LinkError():
            return Problem(error.code, error.message, error.status, retry_after=error.retry_after)
        case Limited():
            return Problem(error.code, error.message, 429, retry_after=error.retry_after or 60.0)
        case FaultError():
            return Problem(error.code, error.message, error.status)
        case OutboxError():
            return Problem(error.code, error.message, 503, retry_after=5.0)
        case web.RequestPayloadError():
            return Problem("body_invalid", "The body's encoding or framing is broken.", 400)
        case web.HTTPException():
            return _of_aiohttp(error)
        case _:
            log.error("request_failed", exc_info=error)
            return Problem("internal_error", "Something went wrong here; it has been logged.", 500)


_AIOHTTP: Final = {
    400: ("request_invalid", "The request cannot be understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not answer to this method."),
    413: ("body_too_large", "The body is too large."),
    417: ("expectation_failed", "Only `Expect: 100-continue` is understood."),
}


def _of_aiohttp(error: web.HTTPException) -> Problem:
    code, detail = _AIOHTTP.get(error.status, ("request_failed", http.HTTPStatus(error.status).phrase))
    allow = error.headers.get("Allow")
    return Problem(code, detail, error.status, headers={"Allow": allow} if allow else None)
