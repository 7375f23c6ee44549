"""Generates the public contract: OpenAPI for HTTP, AsyncAPI for Socket.IO, both from the types that the code uses.

`python -m roundtrip.api.spec` writes them to docs/; a test fails when they are out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from roundtrip.api.spec.asyncapi import asyncapi
from roundtrip.api.spec.openapi import openapi

DOCS: Final = Path(__file__).resolve().parents[4] / "docs"


def documents() -> dict[str, bytes]:
    """The documents by file name."""
    return {"openapi.json": _json(openapi()), "asyncapi.json": _json(asyncapi())}


def _json(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def main(folder: Path = DOCS) -> int:
    folder.mkdir(exist_ok=True)
    for name, content in documents().items():
        (folder / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
