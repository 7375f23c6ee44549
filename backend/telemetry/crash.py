"""Errors that nobody caught: logged and counted, without a person's data in them."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import structlog

from backend.telemetry import redaction

log = structlog.get_logger(__name__)

_DEPTH: Final = 30
"""Innermost frames to keep: a recursion would fill a disk."""

_CHAIN: Final = 5


def describe(error: BaseException) -> str:
    """An error and what caused it as a traceback: files, lines and functions, no locals, messages as
    `redaction.message_of` lets them out."""
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


def install() -> None:
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
