"""The queue of a polled socket's packets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.sockets.engineio.packets import PacketQueue


@given(steps=st.lists(st.sampled_from(["put", "get", "poll", "give up"]), max_size=40))
def test_every_packet_is_read_once_and_in_order(steps: list[str]) -> None:
    async def run() -> None:
        queue = PacketQueue()
        put, read = 0, []
        waiting: asyncio.Task[int] | None = None
        for step in steps:
            if step == "put":
                queue.put_nowait(put)
                put += 1
            elif step == "get" and not queue.empty() and waiting is None:
                read.append(queue.get_nowait())
            elif step == "poll" and waiting is None:
                waiting = asyncio.ensure_future(queue.get())
            elif step == "give up" and waiting is not None and not waiting.done():
                waiting.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            if waiting is not None and waiting.done():
                if not waiting.cancelled():
                    read.append(waiting.result())
                waiting = None
        assert (waiting is not None) <= queue.empty()
        if waiting is not None:
            waiting.cancel()
        assert queue.qsize() == put - len(read)
        read += [queue.get_nowait() for _ in range(queue.qsize())]
        assert read == list(range(put))

    asyncio.run(run())


async def test_an_empty_queue_has_nothing_to_give() -> None:
    with pytest.raises(asyncio.QueueEmpty):
        PacketQueue().get_nowait()
