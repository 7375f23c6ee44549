"""Whatever happens on the way, each event's fate is what the reference says it is."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import ClassVar, Final

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import BRANCHES, PathMachine

SECONDS: Final = float(os.environ.get("ROUNDTRIP_MODEL_SECONDS", "45"))
"""How long the search goes on; more finds more."""

ROUND: Final = 12
"""Examples between two looks at the clock."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A thousand outages are no news, and their lines would cost more than they."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_the_whole_path_keeps_its_promises() -> None:
    class Machine(PathMachine):
        reached: ClassVar[Counter[str]] = Counter()

    until = time.monotonic() + SECONDS
    rounds = 0
    while rounds < 2 or time.monotonic() < until:
        rounds += 1
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
    print(f"{rounds * ROUND} examples: {dict(Machine.reached.most_common())}")
    missing = BRANCHES - set(Machine.reached)
    assert not missing, f"the rules no longer reach: {sorted(missing)}"
