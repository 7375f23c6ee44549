"""How long a failed step waits before it is tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roundtrip.backoff import Backoff


@given(st.integers(1, 10_000))
def test_a_delay_grows_up_to_its_cap_and_is_never_less_than_half(failures: int) -> None:
    delay = Backoff(1.0, 60.0).delay(failures)
    full = min(60.0, 2.0 ** min(failures - 1, 16))
    assert full / 2 <= delay <= full
