"""A loop that is held up is measured, one that is not is not."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry, Histogram

from roundtrip.telemetry.setup import LoopLag
from tests.support.py_client import eventually


async def test_a_stall_is_seen() -> None:
    registry = CollectorRegistry()
    lag = LoopLag(Histogram("lag", "Lag.", buckets=(0.05, 1), registry=registry), every=0.01)
    lag.start()
    await eventually(lambda: (registry.get_sample_value("lag_count") or 0) >= 3)
    time.sleep(0.1)  # noqa: ASYNC251  # what must not be done, to be seen
    await eventually(lambda: (registry.get_sample_value("lag_sum") or 0) > 0.08)
    assert (registry.get_sample_value("lag_bucket", {"le": "0.05"}) or 0) >= 1
    lag.stop()
    count = registry.get_sample_value("lag_count")
    await asyncio.sleep(0.03)
    assert registry.get_sample_value("lag_count") == count
