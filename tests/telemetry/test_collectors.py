"""The quick metrics expose what the client library's own would."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.openmetrics.exposition import generate_latest

from roundtrip.telemetry.collectors import LoopCounters, LoopHistograms

disable_created_metrics()  # type: ignore[no-untyped-call]  # as the program does; they hold the time of creation

BUCKETS = (0.001, 0.5, 1.0)
exemplars = st.none() | st.just({"trace_id": "ab" * 16})
amounts = st.sampled_from([0.0, 0.001, 0.5, 1.0, float("inf")]) | st.floats(0, 10)


Moves = list[tuple[float, dict[str, str] | None]]


def move(registry: CollectorRegistry, counts: Any, times: Any, alone: Any, moves: Moves) -> str:
    with patch("time.time", lambda: 1.0):
        for amount, exemplar in moves:
            counts.inc(exemplar=exemplar)
            times.observe(amount, exemplar)
            alone.observe(amount)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]  # published without types
    return text.decode()


def of_the_library(moves: Moves) -> str:
    registry = CollectorRegistry()
    counts = Counter("c", "C.", ["x"], registry=registry).labels("y")
    times = Histogram("h_seconds", "H.", ["x"], unit="seconds", buckets=BUCKETS, registry=registry).labels("y")
    alone = Histogram("alone_seconds", "A.", unit="seconds", buckets=BUCKETS, registry=registry)
    return move(registry, counts, times, alone, moves)


def of_the_loop(moves: Moves) -> str:
    registry = CollectorRegistry()
    counts = LoopCounters("c", "C.", ["x"], registry=registry).labels("y")
    times = LoopHistograms("h_seconds", "H.", ["x"], buckets=BUCKETS, registry=registry).labels("y")
    alone = LoopHistograms("alone_seconds", "A.", buckets=BUCKETS, registry=registry).labels()
    return move(registry, counts, times, alone, moves)


@given(st.lists(st.tuples(amounts, exemplars), max_size=20))
def test_they_expose_what_the_librarys_own_do(moves: Moves) -> None:
    assert of_the_loop(moves) == of_the_library(moves)


def test_a_name_is_registered_once() -> None:
    registry = CollectorRegistry()
    LoopCounters("c", "C.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("c", "C.", registry=registry)
