"""Whatever happens on the way, each event's fate is what the reference says it is."""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import ClassVar, Final

import pytest
import structlog
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import run_state_machine_as_test

from roundtrip.outbox.records import Outcome
from tests.model.machine import PathMachine, SearchMachine
from tests.model.openings import OPENINGS
from tests.model.people import BRANCHES, KEYS

SECONDS: Final = float(os.environ.get("ROUNDTRIP_MODEL_SECONDS", "15"))
"""How long the search goes on; more finds more (`make model`). 0 leaves it out."""

SHRINKING: Final = 40.0
"""Seconds for which a failure is made smaller before it is told. Hypothesis would take five minutes."""

ROUND: Final = 6
"""Examples between two looks at the clock."""

COMMON: Final = 0.6
"""Share of the branches that the random part reaches in any run, however short; usually it is all but one or two."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A thousand outages are no news, and their lines would cost more than they."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def _opened(name: str, machine: type[PathMachine]) -> None:
    path = machine()
    try:
        OPENINGS[name](path)
    finally:
        path.teardown()


def test_the_openings_reach_every_branch() -> None:
    """Chance need not bring a rare branch for the rules to be known to reach it."""

    class Machine(PathMachine):
        reached: ClassVar[Counter[str]] = Counter()

    for name in OPENINGS:
        _opened(name, Machine)
    missing = BRANCHES - set(Machine.reached)
    assert not missing, f"the rules no longer reach: {sorted(missing)}"


@pytest.mark.skipif(SECONDS == 0, reason="left out by ROUNDTRIP_MODEL_SECONDS=0")
@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_the_whole_path_keeps_its_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINKING)

    class Machine(SearchMachine):
        reached: ClassVar[Counter[str]] = Counter()

    until = time.monotonic() + SECONDS
    rounds = 0
    while rounds < 2 or time.monotonic() < until:
        rounds += 1
        seed(random.getrandbits(64))(Machine)  # else a seed that pytest was given makes each round the same
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=ROUND,
                stateful_step_count=30,
                deadline=None,
                report_multiple_bugs=False,
                phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )
    missing = BRANCHES - set(Machine.reached)
    print(f"{rounds * ROUND} examples: {dict(Machine.reached.most_common())}, never: {sorted(missing)}")
    assert len(missing) <= (1 - COMMON) * len(BRANCHES), f"the rules hardly reach anything: {sorted(missing)}"


def _an_acknowledgement_that_an_outage_kept_past_the_events_time(path: PathMachine) -> None:
    """It was in time: what is written late does not expire."""
    path.acknowledge_while_the_outbox_is_down(key=KEYS[0], kind="qr", crash=False)


def _a_client_to_which_nothing_is_said(path: PathMachine) -> None:
    """A websocket that answers each PING stays, however long no event comes."""
    path.connect(key=KEYS[0], acks=False, polling=False, life=None)
    path.time_passes(seconds=70.0)


def _a_client_that_leaves_the_namespace(path: PathMachine) -> None:
    """It is mapped no more, under neither key, though its connection stands."""
    path.connect(key=KEYS[0], acks=True, polling=False, life=None)
    path.change_identity(who=0, key=KEYS[2], acks=True, pause=True)
    path.publish(key=KEYS[0], kind="connected")


def _a_clock_that_is_a_day_ahead_for_a_moment(path: PathMachine) -> None:
    """Nothing expires by it."""
    path.publish(key=KEYS[0], kind="connected")
    path.the_clock_is_set(seconds=86_400.0, key=KEYS[0], kind="connected")
    path.the_clock_is_set(seconds=-86_400.0, key=KEYS[0], kind="qr")
    path.connect(key=KEYS[0], acks=True, polling=False, life=None)
    assert [entry.outcome for entry in path.world.ledger(KEYS[0])] == [Outcome.ACKED] * 3


def _an_overflow_that_is_acknowledged_late(path: PathMachine) -> None:
    """The newest 256 receipts are remembered; older events stay `received`."""
    path.connect_while_events_flow(key=KEYS[2], acks=False, at="pending", count=1_001, slow=False)
    path.time_passes(seconds=2.5)
    path.answer(who=0)


@pytest.mark.parametrize(
    "example",
    [
        _an_acknowledgement_that_an_outage_kept_past_the_events_time,
        _a_client_to_which_nothing_is_said,
        _a_client_that_leaves_the_namespace,
        _a_clock_that_is_a_day_ahead_for_a_moment,
        _an_overflow_that_is_acknowledged_late,
    ],
)
def test_what_it_once_found(example: Callable[[PathMachine], None]) -> None:
    path = PathMachine()
    try:
        example(path)
    finally:
        path.teardown()
