"""Many rows in one statement.

Python's sqlite3 lets go of the interpreter lock once per step of a statement: with `executemany` that is once per row,
and the event loop and the writer thread then fight for it. One statement with many rows of VALUES steps once.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from backend.delivery.outcome import Attempt

_encode = msgspec.json.Encoder().encode
decode_attempts: Final = msgspec.json.Decoder(tuple[Attempt, ...]).decode
"""Attempts from the text that the table keeps."""

_SIZES: Final = (256, 64, 16, 4, 1)
"""Rows per statement: few sizes, so that every statement is found prepared."""


def encode_attempts(attempts: Sequence[Attempt]) -> str:
    """Attempts as the text that the table keeps."""
    return _encode(attempts).decode()


def in_chunks(db: sqlite3.Connection, sql: str, width: int, values: Sequence[Any]) -> list[Any]:
    """Run `sql`, whose `{}` becomes the VALUES rows of `width` columns, over all of `values` (rows laid end to end).

    Returns the rows that it gives back.
    """
    found: list[Any] = []
    start, left = 0, len(values) // width
    for size in _SIZES:
        while left >= size:
            end = start + size * width
            found += db.execute(_statement(sql, width, size), values[start:end])
            start, left = end, left - size
    return found


@functools.cache
def _statement(sql: str, width: int, rows: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return sql.format(",".join([row] * rows))
