"""msgspec as the JSON module of python-socketio."""

from __future__ import annotations

from typing import Any

import msgspec


def dumps(value: Any, **_options: object) -> str:
    return msgspec.json.encode(value).decode()


def loads(text: str | bytes, **_options: object) -> Any:
    """Raises `ValueError` for what is not JSON, as the standard library does, and for what is nested too deeply."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
