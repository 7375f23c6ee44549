"""Any sequence of packets from four clients with three identities: what must always hold, holds after every step.

`ROUNDTRIP_MODEL_EXAMPLES` makes the run longer.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.ports import free_port
from tests.support.program import Program, running
from tests.support.protocol_model import ALGORITHM, Model
from tests.support.publishing import COMMAND
from tests.support.tokens import ISSUER, private_key, public_pem

EXAMPLES = int(os.environ.get("ROUNDTRIP_MODEL_EXAMPLES", "30"))
STEPS = 20
GRACE = 0.5
"""Seconds between a token's end and that of its socket."""

SHORT, LONG = 2.0, 600.0
"""Seconds that a token lives."""

STOPS_EVERY = 6
"""One conversation in so many may stop the program."""

SLOTS = st.sampled_from([0, 0, 0, 1, 1, 1, 2, 3])
"""Even ones begin with polling, odd ones with a websocket."""

IDENTITIES = st.integers(0, 2)
LIVES = st.sampled_from([SHORT, LONG, LONG, 0.0])
PACKETS = st.sampled_from(
    [
        *("", "0", "2", "2probe", "3", "3", "3probe", "5", "6", "7", "4", "4x", "bAAAA", "49"),
        *("40/x,", "40/admin,{}", "41/x,", '42/x,["status"]', "44{}", "44/x,{}"),
        *('42["status"]', '427["status"]', '42["whatsapp_connection_event",{}]', '42["disconnect"]', "42[]", "42"),
        *("43", "430[]", "43[]", "4399999[]", '451-["status",{"_placeholder":true,"num":0}]', "461-1[]"),
    ]
)


class House:
    """The one program of the run, which is stopped and started at one address and over one folder."""

    def __init__(self, runner: asyncio.Runner, folder: Path) -> None:
        self.runner = runner
        self._folder = folder
        self._port = free_port()
        self._running: Any = None
        self.session: aiohttp.ClientSession
        self.log = ""

    def start(self) -> Program:
        self._running = running(
            self._folder,
            command=COMMAND,
            port=self._port,
            auth="jwt",
            jwt_public_key=public_pem(private_key(ALGORITHM)),
            jwt_issuer=ISSUER,
            jwt_leeway=0,
            token_grace=GRACE,
            ping_interval=1,
            ping_timeout=1,
            ack_timeout=1,
        )
        self.program: Program = self.runner.run(self._running.__aenter__())
        program: Program = self.program
        return program

    def stop(self, *, kill: bool) -> None:
        if not kill:
            self.program.terminate()
            assert self.runner.run(self.program.ended()) == 0
        self.runner.run(self._running.__aexit__(None, None, None))
        self.log += self.program.text()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with asyncio.Runner() as runner:
        found = House(runner, tmp_path)
        found.start()

        async def session() -> aiohttp.ClientSession:
            return aiohttp.ClientSession()

        found.session = runner.run(session())
        try:
            yield found
        finally:
            runner.run(found.session.close())
            found.stop(kill=True)


class Conversation(RuleBasedStateMachine):
    """Steps are bounded by the deadlines inside `Model`."""

    house: ClassVar[House]
    numbers: ClassVar[Iterator[int]]

    @initialize(turn=st.integers(1, STOPS_EVERY))
    def begin(self, turn: int) -> None:
        self.model = Model(self.house.program, f"m{next(self.numbers)}", GRACE, self.house.session)
        self.stops = turn // STOPS_EVERY

    def _do(self, slot: int, action: Callable[[], Awaitable[None]]) -> None:
        async def act() -> None:
            if slot not in self.model.clients:
                await self.model.open(slot, "websocket" if slot % 2 else "polling")
            await action()

        self.house.runner.run(act())

    @rule(slot=SLOTS, transport=st.sampled_from(["polling", "websocket"]))
    def open(self, slot: int, transport: str) -> None:
        self.house.runner.run(self.model.open(slot, transport))

    @rule(slot=SLOTS)
    def upgrade(self, slot: int) -> None:
        self._do(slot, lambda: self.model.upgrade(slot))

    @rule(slot=SLOTS, identity=IDENTITIES, life=LIVES, acks=st.booleans())
    def join(self, slot: int, identity: int, life: float, acks: bool) -> None:
        self._do(slot, lambda: self.model.join(slot, identity, life, acks=acks))

    @rule(slot=SLOTS, identity=IDENTITIES, life=LIVES, then=st.none() | IDENTITIES)
    def leave(self, slot: int, identity: int, life: float, then: int | None) -> None:
        """Leave the namespace, and perhaps join it again as `then` on the same connection."""

        async def leave() -> None:
            await self.model.joined(slot, identity, life or LONG)
            await self.model.leave(slot)
            if then is not None:
                await self.model.join(slot, then, life)

        self._do(slot, leave)

    @rule(slot=SLOTS, identity=IDENTITIES, life=st.sampled_from([SHORT, LONG]))
    def renew(self, slot: int, identity: int, life: float) -> None:
        async def renew() -> None:
            await self.model.joined(slot, identity, SHORT)
            await self.model.renew(slot, identity, life)

        self._do(slot, renew)

    @rule(slot=SLOTS, packets=st.lists(PACKETS, min_size=1, max_size=3), identity=st.none() | IDENTITIES)
    def say(self, slot: int, packets: list[str], identity: int | None) -> None:
        """Anything at all, joined or not."""

        async def say() -> None:
            if identity is not None:
                await self.model.joined(slot, identity, LONG)
            await self.model.say(slot, packets)

        self._do(slot, say)

    @rule(
        slot=SLOTS,
        identity=IDENTITIES,
        back=st.integers(0, 3),
        form=st.sampled_from(["[]", "[]", "[]", "[", "{}", ""]),
        fresh=st.booleans(),
    )
    def ack(self, slot: int, identity: int, back: int, form: str, fresh: bool) -> None:
        """Acknowledge one of the last events, whoever's it is; after a `fresh` one."""

        async def ack() -> None:
            await self.model.joined(slot, identity, LONG)
            if fresh:
                await self.model.publish(identity)
            await self.model.ack(slot, back, form)

        self._do(slot, ack)

    @rule(slot=SLOTS, answering=st.booleans())
    def answer(self, slot: int, answering: bool) -> None:
        """The client answers PINGs from now on, or does not."""
        if slot in self.model.clients:
            self.model.clients[slot].raw.answering = answering

    @rule(slot=SLOTS, rude=st.booleans())
    def close(self, slot: int, rude: bool) -> None:
        self.house.runner.run(self.model.close(slot, rude=rude))

    @rule(identity=IDENTITIES)
    def publish(self, identity: int) -> None:
        self.house.runner.run(self.model.publish(identity))

    @rule(seconds=st.sampled_from([0.05, 0.6]))
    def wait(self, seconds: float) -> None:
        """Time in which tokens end, receipts settle and events are tried again."""
        self.house.runner.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.stops > 0)
    @rule(kill=st.booleans())
    def stop(self, kill: bool) -> None:
        """The program stops, or is killed, and starts again."""
        self.stops -= 1
        self.house.stop(kill=kill)
        self.model.program = self.house.start()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "model"):
            self.house.runner.run(self.model.check())

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.house.runner.run(self.model.end())


@pytest.mark.slow
@pytest.mark.waits(70)
@pytest.mark.timeout(900)
def test_whatever_clients_send_the_map_the_ledger_and_the_keys_stay_true(house: House) -> None:
    Conversation.house = house
    Conversation.numbers = itertools.count(1)
    bounded = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # each step takes real time: shrinking would take minutes
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Conversation, settings=bounded)
    errors = [line for line in house.program.text().splitlines() if '"level":"error"' in line.replace(" ", "")]
    assert not errors, errors[:3]


Steps = Callable[[Model], Awaitable[None]]


async def _leave_and_join_as_another(model: Model) -> None:
    await model.open(0, "websocket")
    await model.join(0, 0, LONG)
    await model.check()
    await model.leave(0)
    await model.join(0, 1, LONG)
    await model.check()
    await model.publish(0)


async def _leave_and_go_on_answering(model: Model) -> None:
    await model.open(0, "websocket")
    await model.join(0, 0, LONG)
    await model.check()
    await model.leave(0)
    await model.publish(0)
    await asyncio.sleep(1.5)  # a receipt would have settled


async def _leave_over_polling(model: Model) -> None:
    await model.open(0, "polling")
    await model.join(0, 0, LONG)
    await model.check()
    await model.leave(0)
    await model.publish(0)
    await asyncio.sleep(1.5)


async def _join_twice(model: Model) -> None:
    await model.open(0, "websocket")
    await model.join(0, 0, LONG)
    await model.join(0, 1, LONG)
    await model.check()
    await model.publish(0)
    await model.publish(1)


async def _another_keys_number(model: Model) -> None:
    """Both events carry seq 1; one client, once joined as the first user, acknowledges as the second."""
    await model.open(0, "websocket")
    await model.join(0, 0, LONG, acks=True)
    await model.check()
    await model.publish(0)
    await model.leave(0)
    await model.join(0, 1, LONG, acks=True)
    await model.publish(1)
    await model.ack(0, 0, "[]")
    await asyncio.sleep(0.3)


async def _a_token_ends(model: Model) -> None:
    await model.open(0, "websocket")
    await model.join(0, 0, SHORT)
    await model.check()
    await model.open(1, "websocket")
    await model.join(1, 0, LONG)
    await asyncio.sleep(SHORT + GRACE + 1.5)
    await model.publish(0)


async def _a_ghost_outlives_its_token(model: Model) -> None:
    await model.open(0, "websocket")
    await model.join(0, 0, SHORT)
    await model.check()
    await model.leave(0)
    await model.join(0, 1, LONG)
    await asyncio.sleep(SHORT + GRACE + 3)
    await model.publish(0)


async def _a_renewal_with_anothers_token(model: Model) -> None:
    await model.open(0, "polling")
    await model.join(0, 0, SHORT)
    await model.check()
    await model.renew(0, 1, LONG)
    await model.publish(1)
    await asyncio.sleep(SHORT + GRACE + 1.5)
    await model.publish(0)


async def _an_ack_that_is_no_array(model: Model) -> None:
    await model.open(0, "websocket")
    await model.join(0, 0, LONG, acks=True)
    await model.check()
    for form in ("[", "{}", '["', "[}", "[] "):
        await model.publish(0)
        await model.ack(0, 0, form)
    await asyncio.sleep(0.3)


@pytest.mark.slow
@pytest.mark.waits
@pytest.mark.xdist_group("conversations")
@pytest.mark.parametrize(
    "steps",
    [
        _leave_and_join_as_another,
        _leave_and_go_on_answering,
        _leave_over_polling,
        _join_twice,
        _another_keys_number,
        _a_token_ends,
        _a_ghost_outlives_its_token,
        _a_renewal_with_anothers_token,
        _an_ack_that_is_no_array,
    ],
)
def test_a_conversation_that_once_went_wrong(house: House, steps: Steps) -> None:
    async def talk() -> None:
        model = Model(house.program, "m", GRACE, house.session)
        try:
            await steps(model)
            await model.check()
        finally:
            for slot in list(model.clients):
                await model.close(slot)

    house.runner.run(talk())
