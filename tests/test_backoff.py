"""Delays between retries, and budgets over a window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roundtrip.backoff import Backoff, Budget


@given(st.integers(0, 200), st.floats(0.0, 1.0, exclude_max=True))
def test_delays_double_up_to_the_cap_with_jitter(attempt: int, drawn: float) -> None:
    delay = Backoff(1.0, 60.0, lambda: drawn).delay(attempt + 1)
    whole = min(60.0, 2.0**attempt)
    assert whole / 2 <= delay <= whole


def test_two_links_do_not_come_back_together() -> None:
    assert len({Backoff(1.0, 60.0).delay(5) for _ in range(50)}) > 40


def test_a_budget_is_of_a_window() -> None:
    budget = Budget(2, 10.0)
    assert [budget.spend(t) for t in (0.0, 1.0, 2.0, 10.5, 12.0)] == [True, True, False, False, True]
    assert budget.spent(100.0) == 0
