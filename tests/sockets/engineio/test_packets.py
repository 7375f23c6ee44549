"""The queue of a polled socket's packets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.sockets.engineio.packets import PacketQueue


class Used:
    """A queue under a sequence of calls, and what was read of it."""

    def __init__(self) -> None:
        self.queue = PacketQueue()
        self.put, self.read = 0, list[int]()
        self.poll: asyncio.Task[int] | None = None

    async def do(self, step: str) -> None:
        if step == "put":
            self.queue.put_nowait(self.put)
            self.put += 1
        elif step == "get" and not self.queue.empty():
            self.read.append(self.queue.get_nowait())
        elif step == "poll":
            self.poll = self.poll or asyncio.ensure_future(self.queue.get())
        elif step == "give up" and self.poll is not None:
            self.poll.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        if self.poll is not None and self.poll.done():
            self.read += [] if self.poll.cancelled() else [self.poll.result()]
            self.poll = None


@given(steps=st.lists(st.sampled_from(["put", "get", "poll", "give up"]), max_size=40))
def test_every_packet_is_read_once_and_in_order(steps: list[str]) -> None:
    async def run() -> None:
        used = Used()
        for step in steps:
            await used.do(step)
        assert used.poll is None or used.queue.empty()
        await used.do("give up")
        assert used.queue.qsize() == used.put - len(used.read)
        while not used.queue.empty():
            await used.do("get")
        assert used.read == list(range(used.put))

    asyncio.run(run())


async def test_an_empty_queue_has_nothing_to_give() -> None:
    with pytest.raises(asyncio.QueueEmpty):
        PacketQueue().get_nowait()
