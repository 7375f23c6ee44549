"""What the two servers are given: a logger without tracebacks of clients' errors, and a codec; JSONP is refused."""

from __future__ import annotations

import logging

import aiohttp
import pytest
from structlog.testing import capture_logs

from roundtrip.sockets.engineio.server import ClientErrorFilter, Json, engineio_logger
from tests.sockets.raw import POLLING
from tests.support.sockets import stage


def test_what_a_client_sent_wrong_is_logged_as_that() -> None:
    logger = engineio_logger()
    assert engineio_logger() is logger
    assert sum(isinstance(known, ClientErrorFilter) for known in logger.filters) == 1
    with capture_logs() as logs:
        try:
            int("nonsense")
        except ValueError:
            logger.exception("post request handler error")
        logger.error("bad")
    assert [(line["what"], line["error"], line["log_level"]) for line in logs] == [
        ("post request handler error", "ValueError", "info"),
        ("bad", None, "info"),
    ]
    for level, passed in ((logging.ERROR, False), (logging.WARNING, True), (logging.INFO, True)):
        assert ClientErrorFilter().filter(logging.LogRecord("x", level, "", 1, "m", (), None)) is passed


def test_json_that_is_none_is_a_value_error() -> None:
    assert Json.loads(Json.dumps({"a": [1, "é", None]})) == {"a": [1, "é", None]}
    for text in ("", "{", "nul", "[" * 100_000, b"\xff"):
        with pytest.raises(ValueError, match="JSON"):
            Json.loads(text)


async def test_jsonp_is_not_served() -> None:
    async with stage() as s, aiohttp.ClientSession() as session:
        for query in ("&j=0", "&j=", "&j=x"):
            async with session.get(s.url + POLLING + query) as response:
                assert response.status == 400
                assert "JSONP" in await response.text()
        assert not s.server.engine.eio.sockets
        assert s.notes.refused == ["jsonp"] * 3
