"""One running program per test, in the test's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.inside import Inside, inside


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Inside]:
    """The program with its usual settings, a fast simulated phone, and trusted identity."""
    async with inside(tmp_path) as started:
        yield started
