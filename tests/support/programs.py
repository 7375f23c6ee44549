"""Programs that tests need and a machine may lack."""

from __future__ import annotations

import os
import shutil

import pytest


def require(program: str, how: str) -> str:
    """The path of a program. Without it the test is skipped, saying how to get it; in CI it fails."""
    path = shutil.which(program)
    if path is not None:
        return path
    reason = f"{program} is missing; get it with: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
