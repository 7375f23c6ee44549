"""The fault `whatsapp_flap` by itself, against links that only record what is done to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from roundtrip.drivers.simulated import SimulateAction
from roundtrip.drivers.simulated.flapper import Flapper
from roundtrip.errors import RoundtripError
from roundtrip.faults import Faults
from roundtrip.identity import BotKey
from tests.support.stepped_loop import SteppedLoop

DISCONNECT, RECONNECT = SimulateAction.DISCONNECT, SimulateAction.RECONNECT
PERIOD = 5.0


@dataclass
class View:
    user_id: str
    bot_id: str
    state: str


class Links:
    """Links by their state; a disconnect or reconnect changes it, unless the link refuses."""

    def __init__(self, **states: str) -> None:
        self.views = {BotKey(user, "bot"): View(user, "bot", state) for user, state in states.items()}
        self.done: list[tuple[str, SimulateAction]] = []
        self.refuse: set[str] = set()

    def links(self) -> list[View]:
        return list(self.views.values())

    async def simulate(self, key: BotKey, action: SimulateAction) -> object:
        self.done.append((key.user_id, action))
        if key.user_id in self.refuse:
            raise RoundtripError("action_impossible", "Not now.")
        self.views[key].state = "disconnected" if action is DISCONNECT else "connected"
        return None

    def new(self) -> list[tuple[str, SimulateAction]]:
        done, self.done = self.done, []
        return done


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


class Fault:
    """The fault, switched on and off inside the loop, as the API does."""

    def __init__(self, loop: SteppedLoop, links: Links) -> None:
        self.loop = loop
        self.faults = Faults(allowed=True)
        self.flapper = Flapper(self.faults, links)
        self.faults.subscribe(self.flapper.switched)

    def on(self) -> None:
        self.loop.run(self._call(True))

    def off(self) -> None:
        self.loop.run(self._call(False))

    async def _call(self, on: bool) -> None:
        if on:
            self.faults.switch_on("whatsapp_flap", PERIOD)
        else:
            self.faults.switch_off("whatsapp_flap")

    def end(self) -> None:
        self.flapper.stop()
        self.loop.settle()


def test_connected_links_lose_whatsapp_and_have_it_back_by_turns(loop: SteppedLoop) -> None:
    links = Links(ada="connected", bela="degraded", cleo="qr")
    fault = Fault(loop, links)
    fault.on()
    loop.settle()
    for action in (DISCONNECT, RECONNECT, DISCONNECT, RECONNECT):
        assert links.new() == [("ada", action), ("bela", action)]
        loop.advance(PERIOD - 0.1)
        assert links.new() == []
        loop.advance(0.1)
    fault.end()


def test_no_link_stays_disconnected_after_the_fault(loop: SteppedLoop) -> None:
    links = Links(ada="connected", bela="connected", cleo="disconnected")
    fault = Fault(loop, links)
    fault.on()
    loop.settle()
    assert sorted(links.new()) == [("ada", DISCONNECT), ("bela", DISCONNECT), ("cleo", RECONNECT)]
    links.refuse.add("bela")
    fault.off()
    loop.settle()
    assert sorted(links.new()) == [("ada", RECONNECT), ("bela", RECONNECT)]
    loop.advance(10 * PERIOD)
    assert links.new() == []


def test_a_link_that_refuses_is_tried_again_and_not_restored(loop: SteppedLoop) -> None:
    links = Links(ada="connected")
    links.refuse.add("ada")
    fault = Fault(loop, links)
    fault.on()
    loop.settle()
    loop.advance(PERIOD)
    assert links.new() == [("ada", DISCONNECT)] * 2
    fault.off()
    loop.settle()
    assert links.new() == []


def test_another_fault_changes_nothing(loop: SteppedLoop) -> None:
    links = Links(ada="connected")
    fault = Fault(loop, links)
    fault.flapper.switched("drop_acks", True)
    loop.settle()
    assert links.new() == []
