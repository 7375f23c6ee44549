"""What the parts of the contract suite share: the fixtures that an implementation provides, and helpers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import pytest

from roundtrip.outbox.base import Outbox
from tests.support.drafts import Clock


class FaultableOutbox(Outbox, Protocol):
    """An outbox that a test can make fail."""

    fault_down: bool
    """Whether commits fail."""


Reopen: TypeAlias = Callable[[], Awaitable[FaultableOutbox]]
"""Closes the outbox if it is open, and opens the same store again, without faults."""


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = 10) -> None:
    """Poll until a condition holds."""
    async with asyncio.timeout(within):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


class ContractBase:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def reopen(self) -> Reopen:
        raise NotImplementedError

    @pytest.fixture
    async def outbox(self, reopen: Reopen) -> FaultableOutbox:
        return await reopen()
