"""What most tests of the API start from; a module that needs other settings has a fixture of the same name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.api import Api, api


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api() as it:
        yield it
