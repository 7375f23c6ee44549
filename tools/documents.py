"""Writes the documents that are generated from the code: `python -m tools.documents`. A test fails on a difference."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "backend"))
from roundtrip.commands.reference import settings_markdown  # noqa: E402  # only now is this checkout's found
from tools.reference import reference_markdown  # noqa: E402

GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "docs/settings.md": settings_markdown,
    "docs/reference.md": reference_markdown,
}
"""What makes each document, by its path."""


def main() -> None:
    for path, text in GENERATED.items():
        (ROOT / path).write_text(text())


if __name__ == "__main__":
    main()
