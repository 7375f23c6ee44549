from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.build import built


@pytest.fixture(scope="session", autouse=True)
def package() -> Path:
    """Built before a test's clock runs: tokens live for seconds."""
    return built()
