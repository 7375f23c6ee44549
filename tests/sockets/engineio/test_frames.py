"""Messages that are processed while they are read: in order, a few at a time, else the ordinary way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.events import Degraded
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from roundtrip.sockets.engineio import frames
from roundtrip.sockets.engineio.frames import FrameParser, InterceptingQueue
from tests.support.node_client import node_client
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
AUTH = {"userId": "user", "botId": "bot", "acks": True}
PER_TURN = 4


def masked(text: str) -> bytes:
    """A client's text frame. The mask is zero, so masking changes nothing."""
    data = text.encode()
    assert len(data) < 126
    return bytes((0x81, 0x80 | len(data))) + b"\0\0\0\0" + data


class Wire:
    """A parser with its queue, and the task that a websocket has."""

    def __init__(self, *, fails: bool = False) -> None:
        handler: Any = SimpleNamespace(_reading_paused=False, pause_reading=lambda: None, resume_reading=lambda: None)
        self.at_once: list[str] = []
        self.order: list[str] = []
        self.fails = fails
        self.queue = InterceptingQueue(handler, asyncio.get_running_loop(), self.intercept)
        self.parser = FrameParser(self.queue, 1_000, PER_TURN)
        self.gate = asyncio.Event()
        self.gate.set()

    def intercept(self, text: str) -> bool:
        if self.fails:
            raise ValueError(text)
        if not text.startswith("a"):
            return False
        self.at_once.append(text)
        self.order.append(text)
        return True

    async def read(self) -> None:
        while True:
            self.queue.waiting = True
            message = await self.queue.read()
            await self.gate.wait()
            self.order.append(message.data)


async def reading(wire: Wire, *chunks: bytes) -> None:
    task = asyncio.ensure_future(wire.read())
    for chunk in chunks:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wire.parser.feed_data(chunk)
    for _ in range(50):
        await asyncio.sleep(0)
    task.cancel()


@given(texts=st.lists(st.sampled_from(["a1", "a2", "b1", "b2"]), max_size=30), cuts=st.lists(st.integers(1, 40)))
def test_the_order_is_that_of_the_wire_however_it_is_cut(texts: list[str], cuts: list[int]) -> None:
    async def run() -> None:
        wire = Wire()
        data = b"".join(masked(text) for text in texts)
        chunks = []
        for cut in cuts:
            chunks.append(data[:cut])
            data = data[cut:]
        await reading(wire, *[chunk for chunk in [*chunks, data] if chunk])
        assert wire.order == texts

    asyncio.run(run())


async def test_no_more_than_a_few_of_one_read_are_processed_at_once() -> None:
    wire = Wire()
    await reading(wire, b"".join(masked(f"a{number}") for number in range(10)))
    assert wire.at_once == ["a0", "a1", "a2", "a3"]
    assert wire.order == [f"a{number}" for number in range(10)]


async def test_nothing_is_processed_while_the_task_is_busy_with_what_came_before() -> None:
    wire = Wire()
    wire.gate.clear()
    await reading(wire, masked("b0"), masked("a1"), masked("a2"))
    assert wire.at_once == []


async def test_a_mistake_in_processing_one_message_is_logged_and_spares_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = Wire(fails=True)
    await reading(wire, masked("a1"))
    assert wire.order == []
    wire.fails = False
    await reading(wire, masked("a2"), masked("b1"))
    assert wire.order == ["a2", "b1"]


async def test_with_another_aiohttp_messages_take_the_ordinary_way_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    class Renamed:
        def __init__(self, *_: object, **__: object) -> None:
            raise TypeError("takes other arguments")

    monkeypatch.setattr(frames, "WebSocketReader", Renamed)
    monkeypatch.setattr(frames, "_said", [])
    monkeypatch.setattr(frames, "log", SimpleNamespace(warning=lambda event, **_: said.append(event)))
    async with stage() as s, node_client(s.url, AUTH, transports=["websocket"]) as one:
        await one.heard("status")
        async with node_client(s.url, AUTH, transports=["websocket"]) as other:
            await other.heard("status")
            for _ in range(20):
                await s.courier.publish(KEY, "link", Degraded())
            async with asyncio.timeout(5):
                while len(s.notes.settled_) < 20:
                    await asyncio.sleep(0.01)
    assert {delivery.outcome for delivery in s.notes.settled_} == {Outcome.ACKED}
    assert said == ["websocket_reader_unknown"]
