"""Which host is not needed: whatever there is, emptying it leaves room, and is never undone by the next account."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.drivers.neonize import upkeep
from roundtrip.drivers.neonize.shared_worker import SETTLED, Worker

LIMIT = 8
FOLDER = Path("/accounts")


@dataclass(eq=False)
class Member:
    """A session."""

    account: str | None
    online: bool
    store: Path = FOLDER / "one.db"


def host(*accounts: str | None, online: bool = True, shared: bool = True, limit: int = LIMIT) -> Worker:
    """A worker that began long ago."""
    process: Any = SimpleNamespace(cause=None)
    worker = Worker(process, FOLDER, limit, shared=shared)
    worker.born -= SETTLED + 1
    for account in accounts:
        worker.members.add(Member(account, online))  # type: ignore[arg-type]  # as much of one as counts
    return worker


def spare(*hosts: Worker) -> Worker | None:
    return upkeep.not_needed(hosts, asyncio.get_running_loop().time())


@given(st.lists(st.integers(1, LIMIT), min_size=1, max_size=12))
def test_a_host_is_emptied_only_when_the_others_keep_room(sizes: list[int]) -> None:
    async def play() -> None:
        hosts = [host(*[None] * size) for size in sizes]
        while (emptied := spare(*hosts)) is not None:
            hosts.remove(emptied)
            for session in emptied.members:
                next(one for one in hosts if one.takes(session)).members.add(session)
            room = sum(LIMIT - len(one.members) for one in hosts)
            assert room >= (1 - upkeep.FULL) * LIMIT * len(hosts), "the next accounts need no new host"
        assert sum(len(one.members) for one in hosts) == sum(sizes)
        needed = -(-sum(sizes) // LIMIT)
        assert len(hosts) <= max(1, needed / upkeep.FULL + 1), "few are left"

    asyncio.run(play())


async def test_it_is_the_emptiest() -> None:
    small = host(None)
    assert spare(host(None, None), small, host(None, None, None)) is small


@pytest.mark.parametrize("why", ["starts", "ends", "drains", "lost"])
async def test_nobody_is_moved_while_a_host(why: str) -> None:
    other = host(None, online=why != "lost")
    if why == "starts":
        other.born = asyncio.get_running_loop().time()
    elif why == "ends":
        other.process.cause = "killed"  # type: ignore[assignment]  # whatever it is
    elif why == "drains":
        other.draining = True
    assert spare(host(None), other) is None


async def test_two_of_one_account_and_suspects_stay_apart() -> None:
    assert spare(host("+1"), host("+1")) is None
    assert spare(host("+1"), host("+2")) is not None
    assert spare(host("+1"), host("+2", shared=False)) is None
