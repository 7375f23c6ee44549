"""What the batch function takes: lists as text that PostgreSQL takes apart (`sql/0005_batches.sql`).

A driver that makes an array looks at each of its elements; a thousand events have tens of thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

PARAMETERS: Final = 44
WRITE: Final = f"SELECT * FROM write_batch_3({', '.join(f'${n}' for n in range(1, PARAMETERS + 1))})"  # noqa: S608  # numbers

_encode: Final = msgspec.json.Encoder().encode


def numbers(values: Sequence[int]) -> str:
    """As the text of an array of PostgreSQL. Raises `OverflowError` for what no 64 bits hold."""
    return f"{{{_encode(values)[1:-1].decode()}}}"


def lines(texts: Sequence[str]) -> str:
    """Texts with a line end between them. Raises `ValueError` when one has a line end itself."""
    text = "\n".join(texts)
    if text.count("\n") >= max(len(texts), 1):
        raise ValueError("a text with a line end")
    return text


def json_lines(texts: Sequence[bytes]) -> str:
    """The same of JSON, which has no line ends."""
    return b"\n".join(texts).decode()
