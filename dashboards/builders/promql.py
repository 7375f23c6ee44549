"""Pieces of PromQL that every dashboard uses: the instance filter and exact counting."""

from __future__ import annotations

from typing import Final

SELECTOR: Final = 'job=~"$job",instance=~"$instance"'
"""Which backends a dashboard looks at: the two variables on top of it."""

DEFECTS: Final = 'reason=~"key_mismatch|ack_timeout|queue_full|send_failed"'
"""Misses that are somebody's mistake; in the others nobody was there."""
NOBODY: Final = DEFECTS.replace("=~", "!~")

TYPE: Final = 'type=~"$type"'


def series(name: str, *matchers: str) -> str:
    """A selector of `roundtrip_<name>` on the chosen backends."""
    return f"roundtrip_{name}{{{','.join((SELECTOR, *matchers))}}}"


def recorded(name: str, *matchers: str) -> str:
    """A selector of the recording rule `roundtrip:<name>` on the chosen backends."""
    return f"roundtrip:{name}{{{','.join((SELECTOR, *matchers))}}}"


def rate(metric: str) -> str:
    return f"rate({metric}[$__rate_interval])"


def increase(metric: str) -> str:
    return f"increase({metric}[$__rate_interval])"


def exact(metric: str) -> str:
    """How much a counter grew within the dashboard's time range, to the unit.

    `increase()` extrapolates to the window's edges, so three misses become 3.2. This is the growth between the first
    and the last scrape of the range, as the recording rules count it: a missing sample makes it no more. A process that
    started within the range has counted all of it since then. For series that exist from the process's start.
    """
    started = f"process_start_time_seconds{{{SELECTOR}}} > time() - $__range_s"
    return f"(({metric} and on (job, instance) {started}) or {metric} - min_over_time({metric}[$__range]))"


def total(expression: str, *by: str) -> str:
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def quantile(q: float, histogram: str, *matchers: str, by: tuple[str, ...] = ()) -> str:
    """The q-quantile of a histogram in seconds, over the rate interval."""
    buckets = series(f"{histogram}_seconds_bucket", *matchers)
    return f"histogram_quantile({q}, {total(rate(buckets), 'le', *by)})"
