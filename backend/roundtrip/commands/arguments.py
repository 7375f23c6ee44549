"""A command's arguments: argparse, with errors in one line."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    def __init__(self, command: str, summary: str) -> None:
        super().__init__(prog=f"roundtrip {command}", description=summary, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; try --help", file=sys.stderr)  # noqa: T201  # a command's message
        sys.exit(2)
