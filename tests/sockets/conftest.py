"""Fixtures of the socket tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.stepped_loop import SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()
    asyncio.set_event_loop(None)
