"""Work that many ask for at once is spread over turns of the event loop, in the order in which it was asked for."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roundtrip.limits.loop_turns import LoopTurns


class Crowd:
    """Callers that note in which turn of the loop they were let through."""

    def __init__(self, per_turn: int) -> None:
        self.turns = LoopTurns(per_turn)
        self.turn = 0
        self.passed: list[int] = []
        self.by_turn: Counter[int] = Counter()
        asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        self.turn += 1
        asyncio.get_running_loop().call_soon(self._count)

    async def come(self, number: int) -> None:
        await self.turns.take()
        self.passed.append(number)
        self.by_turn[self.turn] += 1


@settings(deadline=None, max_examples=50)  # each runs a loop of its own
@given(per_turn=st.integers(1, 5), arrivals=st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_a_turn_lets_a_few_through_and_all_get_theirs_in_order(per_turn: int, arrivals: list[int]) -> None:
    async def run() -> None:
        crowd = Crowd(per_turn)
        tasks: list[asyncio.Task[None]] = []
        for count in arrivals:
            tasks += [asyncio.ensure_future(crowd.come(len(tasks) + n)) for n in range(count)]
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks)
        assert crowd.passed == list(range(len(tasks)))
        assert max(crowd.by_turn.values(), default=0) <= 2 * per_turn

    asyncio.run(run())


async def test_a_crowd_that_comes_at_once_is_let_through_evenly() -> None:
    crowd = Crowd(3)
    await asyncio.wait_for(asyncio.gather(*(crowd.come(number) for number in range(31))), 5)
    assert sorted(crowd.by_turn.values()) == [1] + [3] * 10


async def test_one_caller_does_not_wait() -> None:
    crowd = Crowd(1)
    with pytest.raises(StopIteration):
        crowd.come(0).send(None)
    assert crowd.passed == [0]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.wait_for(crowd.come(1), 5)


async def test_a_caller_that_gave_up_takes_no_room() -> None:
    crowd = Crowd(1)
    tasks = [asyncio.ensure_future(crowd.come(number)) for number in range(5)]
    await asyncio.sleep(0)
    for task in tasks[1:4]:
        task.cancel()
    await asyncio.wait_for(tasks[4], 5)
    assert crowd.passed == [0, 4]
