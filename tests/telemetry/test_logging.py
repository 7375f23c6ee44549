"""What comes out of a log call: one JSON line, with ids and without personal data."""

from __future__ import annotations

import asyncio
import io
import json
import logging as stdlib
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from roundtrip.identity import BotKey
from roundtrip.telemetry import logging
from roundtrip.telemetry import logging as telemetry_logging
from tests.support.process_state import unconfigured

TRACEPARENT = f"00-{7:032x}-{8:016x}-01"


class Lines(io.StringIO):
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def only(self) -> dict[str, Any]:
        [line] = self.all()
        return line


@pytest.fixture
def out() -> Iterator[Lines]:
    """Configured logs; everything is put back afterwards."""
    root = stdlib.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    levels = {name: stdlib.getLogger(name).level for name in logging._CHATTY}
    lines = Lines()
    logging.configure("DEBUG", "json", lines)
    yield lines
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    stdlib.captureWarnings(False)
    stdlib.getLogger("aiohttp.access").disabled = False
    for name, was in levels.items():
        stdlib.getLogger(name).setLevel(was)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    unconfigured()


def test_one_line_with_what_a_reader_looks_for_first(out: Lines) -> None:
    structlog.get_logger("backend.x").info("socket_mapped", sid="abc", sockets=2)
    line = out.only()
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
    assert (line["event"], line["level"], line["logger"], line["sid"], line["sockets"]) == (
        "socket_mapped",
        "info",
        "backend.x",
        "abc",
        2,
    )
    assert line["timestamp"].endswith("Z")


def test_private_fields_and_shapes_are_hidden(out: Lines) -> None:
    structlog.get_logger().info(
        "oops", user_id="canary", qr="canary", key=BotKey("canary", "canary"), text="from 491701234567 to canary@lid"
    )
    assert "canary" not in out.getvalue()
    assert "1234567" not in out.getvalue()


def test_context_is_on_every_line(out: Lines) -> None:
    log = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(link_id="link-1", event_id="e"):
        log.info("inside")
    log.info("outside")
    inside, outside = out.all()
    assert (inside["link_id"], inside["event_id"]) == ("link-1", "e")
    assert "link_id" not in outside


def test_the_trace_of_a_traceparent_or_of_the_current_span(out: Lines) -> None:
    log = structlog.get_logger()
    log.info("given", traceparent=TRACEPARENT)
    with trace.use_span(NonRecordingSpan(SpanContext(7, 8, False, TraceFlags(1)))):
        log.info("current")
    log.info("none")
    given, current, none = out.all()
    assert given["trace_id"] == current["trace_id"] == f"{7:032x}"
    assert given["span_id"] == current["span_id"] == f"{8:016x}"
    assert "traceparent" not in given
    assert "trace_id" not in none


def test_an_exception_has_its_frames_and_no_data(out: Lines) -> None:
    def lookup(canary: str) -> None:
        {}[canary]  # type: ignore[index]  # it is to fail

    try:
        try:
            lookup("the canary's name")
        except KeyError as cause:
            raise RuntimeError("while calling 491701234567") from cause
    except RuntimeError:
        structlog.get_logger().exception("failed")
    text = out.only()["exception"]
    assert "in lookup" in text
    assert "KeyError: '…'" in text
    assert "RuntimeError: while calling [phone …67]" in text
    assert "the canary's name" not in text.replace('lookup("the canary\'s name")', "")


def test_a_dependencys_line_looks_like_our_own(out: Lines) -> None:
    stdlib.getLogger("some.library").warning("cannot reach %s for '%s'", "491701234567@lid", "canary")
    line = out.only()
    assert (line["event"], line["level"], line["logger"]) == ("cannot reach [jid] for '…'", "warning", "some.library")


@pytest.mark.parametrize("name", ["engineio.server", "socketio.server", "aiohttp.server", "urllib3.connectionpool"])
def test_dependencies_that_print_payloads_are_silent_below_warning(out: Lines, name: str) -> None:
    stdlib.getLogger(name).info("Sending packet MESSAGE data 2[canary]")
    stdlib.getLogger(name).debug("Sending packet MESSAGE data 2[canary]")
    assert out.getvalue() == ""
    stdlib.getLogger(name).warning("something is wrong")
    assert out.only()["level"] == "warning"


def test_warnings_are_lines_too(out: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert out.only()["logger"] == "py.warnings"


def test_a_level_that_is_off_logs_nothing(out: Lines) -> None:
    logging.configure("INFO", "json", out)
    structlog.get_logger().debug("emit_attempt")
    assert out.getvalue() == ""
    assert not logging.debug_on()


def test_a_terminal_gets_text(out: Lines) -> None:
    text = Lines()
    logging.configure("INFO", "text", text)
    structlog.get_logger().warning("emit_missed", reason="never_connected")
    assert "emit_missed" in text.getvalue()
    assert "reason=never_connected" in text.getvalue()
    assert not text.getvalue().startswith("{")


class TestUncaught:
    def test_in_the_interpreter(self, out: Lines) -> None:
        error = ValueError("bad: 'canary'")
        sys.excepthook(ValueError, error, None)
        assert (out.only()["event"], out.only()["exception"]) == ("uncaught_exception", "ValueError: bad: '…'")

    def test_in_a_thread(self, out: Lines) -> None:
        def die() -> None:
            raise ValueError("bad: 'canary'")

        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
        line = out.only()
        assert line["event"] == "uncaught_in_thread"
        assert "canary" not in line["exception"].replace("bad: 'canary'\")", "")

    async def test_in_a_task_that_nobody_awaits(self, out: Lines) -> None:
        failures: list[int] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(telemetry_logging.loop_handler(lambda: failures.append(1)))
        try:
            loop.call_soon(lambda: {}["canary"])  # type: ignore[index]  # it is to fail
            await asyncio.sleep(0.01)
        finally:
            loop.set_exception_handler(None)
        assert failures == [1]
        assert out.only()["event"] == "uncaught_in_loop"
