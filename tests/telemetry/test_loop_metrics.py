"""The quick metrics expose what the client library's own would."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.openmetrics.exposition import generate_latest

from backend.telemetry.loop_metrics import LoopCounter, LoopHistogram

disable_created_metrics()  # type: ignore[no-untyped-call]  # as the program does; they hold the time of creation

BUCKETS = (0.001, 0.5, 1.0)
exemplars = st.none() | st.just({"trace_id": "ab" * 16})
amounts = st.sampled_from([0.0, 0.001, 0.5, 1.0, float("inf")]) | st.floats(0, 10)


def exposed(
    counter: type[Counter], histogram: type[Histogram], moves: list[tuple[float, dict[str, str] | None]]
) -> str:
    registry = CollectorRegistry()
    counts = counter("c", "C.", ["x"], registry=registry).labels("y")
    times = histogram("h", "H.", ["x"], buckets=BUCKETS, registry=registry).labels("y")
    alone = histogram("alone", "A.", buckets=BUCKETS, registry=registry)
    with patch("time.time", lambda: 1.0):
        for amount, exemplar in moves:
            counts.inc(exemplar=exemplar)
            times.observe(amount, exemplar)
            alone.observe(amount)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]  # published without types
    return text.decode()


@given(st.lists(st.tuples(amounts, exemplars), max_size=20))
def test_they_agree_with_the_originals(moves: list[tuple[float, dict[str, str] | None]]) -> None:
    assert exposed(LoopCounter, LoopHistogram, moves) == exposed(Counter, Histogram, moves)
