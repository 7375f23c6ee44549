"""The newest log lines that name a trace, in memory and bounded in bytes, as the log has them: redacted."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

LINE_BYTES: Final = 1024
"""What a line takes beside its texts."""


class LogRing(logging.Handler):
    """A handler of structlog's own lines; those of dependencies name no trace."""

    def __init__(self, size: int) -> None:
        """`size` is in bytes."""
        super().__init__()
        self._size = size
        self._lines: deque[tuple[int, dict[str, Any]]] = deque()
        self._bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.msg
        if not isinstance(fields, dict) or "trace_id" not in fields:
            return
        size = LINE_BYTES + sum(len(value) for value in fields.values() if isinstance(value, str))
        lines = self._lines
        lines.append((size, fields))
        self._bytes += size
        while self._bytes > self._size:
            self._bytes -= lines.popleft()[0]

    def of_traces(self, traces: frozenset[str], limit: int) -> list[dict[str, Any]]:
        """The newest lines of these traces, the oldest first."""
        found = [fields for _, fields in list(self._lines) if fields["trace_id"] in traces]
        return [{name: value for name, value in fields.items() if name[:1] != "_"} for fields in found[-limit:]]

    @property
    def bytes(self) -> int:
        return self._bytes
