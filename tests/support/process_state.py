"""What the program sets for its whole process: logging, warnings, the interpreter's last hooks. Put back for pytest,
which has its own."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def put_back() -> Iterator[None]:
    """Everything is as before in the end."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    loggers = {name: logging.getLogger(name) for name in list(root.manager.loggerDict)}
    states = {name: (logger.level, logger.disabled) for name, logger in loggers.items()}
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    shows = warnings.showwarning
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        warnings.showwarning = shows
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in list(root.manager.loggerDict):
            logger = logging.getLogger(name)
            was, logger.disabled = states.get(name, (logging.NOTSET, False))
            logger.setLevel(was)
        structlog.contextvars.clear_contextvars()
        unconfigured()


def unconfigured() -> None:
    """structlog as it is before it is configured: a module's logger that was used keeps the configuration it was used
    with, as an attribute of its own."""
    structlog.reset_defaults()
    for module in list(sys.modules.values()):
        log = getattr(module, "log", None)
        if type(log).__name__ == "BoundLoggerLazyProxy":
            vars(log).pop("bind", None)
