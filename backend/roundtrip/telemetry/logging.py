"""Logs: one JSON line per thing that happened, readable on a terminal. Everything passes `redaction` on its way out.

structlog's loggers and the standard library's end in one handler, so that a dependency's line looks like our own. A
level that is off costs a call and nothing else. Errors that nobody caught are logged too, with a traceback that holds
no data.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from roundtrip.telemetry import redaction

log = structlog.get_logger(__name__)

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Format = Literal["auto", "json", "text"]

_CHATTY: Final = (
    "aiohttp",
    "asyncio",
    "engineio",
    "engineio.client",
    "engineio.server",
    "opentelemetry",
    "requests",
    "socketio",
    "socketio.client",
    "socketio.server",
    "urllib3",
)
"""Dependencies that print payloads at INFO and DEBUG, QR codes among them: never below WARNING. Socket.IO's two get a
level before they are made, or they would add a handler of their own."""

_OWN: Final = frozenset({"level", "logger", "timestamp", "exception", "trace_id", "span_id", "stack"})
"""Fields that this module makes itself; they hold no personal data."""

_FIRST: Final = ("timestamp", "level", "event", "logger", "trace_id", "span_id")
"""What a reader looks for first, in this order."""

_DEPTH: Final = 30
"""Innermost frames of a traceback that are logged: a recursion would fill a disk."""

_CHAIN: Final = 5
"""Errors of a chain, or of a group, that are logged."""


def configure(level: Level = "INFO", format_: Format = "auto", stream: TextIO | None = None) -> None:
    """Send every log line to `stream` (stderr if None), and uncaught errors with it. Call it once, before the rest.

    `auto` is text on a terminal and JSON elsewhere.
    """
    out = sys.stderr if stream is None else stream
    as_text = format_ == "text" or (format_ == "auto" and out.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty()) if as_text else structlog.processors.JSONRenderer(_json)
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(renderer))
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    logging.getLogger("aiohttp.access").disabled = True
    logging.captureWarnings(True)
    _install_hooks()


def export_to(handler: logging.Handler) -> None:
    """Send every line to one more handler, as JSON."""
    handler.setFormatter(_formatter(structlog.processors.JSONRenderer(_json)))
    logging.getLogger().addHandler(handler)


def keep_in(handler: logging.Handler) -> None:
    """Give every line to one more handler as it is: its fields, redacted, not rendered."""
    logging.getLogger().addHandler(handler)


def _shared() -> list[structlog.typing.Processor]:
    """The processors of every line, a dependency's as well."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace,
        exceptions,
        redact,
    ]


def _formatter(renderer: structlog.typing.Processor) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=[_plain_message, *_shared()],
        keep_exc_info=False,
        use_get_message=True,
    )


def debug_on() -> bool:
    """Whether DEBUG lines are logged: asked once, where a line would cost something to prepare."""
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def _json(fields: EventDict, **_: object) -> str:
    ordered = {name: fields.pop(name) for name in _FIRST if name in fields}
    ordered.update(fields)
    return msgspec.json.encode(ordered, enc_hook=str).decode()


def _plain_message(_logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
    """A dependency's line is free text: quoted parts of it are data."""
    event = fields.get("event")
    if isinstance(event, str):
        fields["event"] = redaction.mask_quoted(event)
    return fields


def add_trace(_logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
    """Name the trace: that of the line's `traceparent`, else that of the current span."""
    traceparent = fields.pop("traceparent", None)
    if isinstance(traceparent, str) and len(traceparent) >= 55:
        fields["trace_id"] = traceparent[3:35]
        fields["span_id"] = traceparent[36:52]
        return fields
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        fields["trace_id"] = trace.format_trace_id(span.trace_id)
        fields["span_id"] = trace.format_span_id(span.span_id)
    return fields


def exceptions(_logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
    """Turn `exc_info` into frames and messages without data: no locals, nothing quoted."""
    info: Any = fields.pop("exc_info", None)
    if not info:
        return fields
    if isinstance(info, BaseException):
        error: BaseException | None = info
    elif isinstance(info, tuple):
        error = info[1]
    else:
        error = sys.exc_info()[1]
    if error is not None:
        fields["exception"] = describe(error)
    return fields


def redact(_logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
    """Hash, hide or scrub every field that the caller passed."""
    clean: Callable[[str, object], object] = redaction.field
    for name, value in fields.items():
        if name not in _OWN and name[0] != "_":
            fields[name] = clean(name, value)
    return fields


def describe(error: BaseException) -> str:
    """An error and what caused it as a traceback: files, lines and functions, no locals, messages by
    `redaction.message_of`."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < _CHAIN:
        frames = traceback.format_list(traceback.extract_tb(current.__traceback__)[-_DEPTH:])
        head = "Traceback (most recent call last):\n" if frames else ""
        text = f"{head}{''.join(frames)}{redaction.message_of(current)}"
        if isinstance(current, BaseExceptionGroup):
            text += "".join(f"\n  + {redaction.message_of(part)}" for part in current.exceptions[:_CHAIN])
        parts.append(text)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\nwhich was caused by:\n".join(parts)


def _install_hooks() -> None:
    """Log what reaches the interpreter's three last hooks."""
    sys.excepthook = _uncaught
    threading.excepthook = _in_thread
    sys.unraisablehook = _unraisable


def loop_handler(failed: Callable[[], None]) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """A handler for `loop.set_exception_handler`: logs what nobody awaited, and calls `failed` to count it."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failed()
        error = context.get("exception")
        task = context.get("task") or context.get("future")
        log.error(
            "uncaught_in_loop",
            what=redaction.scrub(str(context.get("message", ""))),
            task=task.get_name() if isinstance(task, asyncio.Task) else None,
            exc_info=error,
        )

    return handle


def _uncaught(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("uncaught_exception", exc_info=error)


def _in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        log.critical("uncaught_in_thread", thread=args.thread.name if args.thread else None, exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    log.error("unraisable_exception", what=args.err_msg, exc_info=args.exc_value)
