"""What reports amount to, and each count: its limit, its window, and what resets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.backoff import Backoff, Budget
from roundtrip.drivers import base as d
from roundtrip.links.machine import Input
from roundtrip.links.policy import FLOOD_LIMIT, FLOOD_WINDOW, INPUT_OF, RetryPolicy, normalize
from tests.support.links import settings

LIMIT = 3
WINDOW = 100.0
REPORTS: list[d.Report] = [
    d.QrShown("2@a,b,c,d", 1, 6, 60.0),
    d.PairingCodeShown("ABCD-1234", 160.0),
    d.CodesUsedUp(),
    d.PairSucceeded("+14155550142"),
    d.Online("+14155550142", "Ada"),
    d.KeepAliveLost(),
    d.KeepAliveRestored(),
    d.Offline(),
    d.LoggedOutByPhone("401"),
    d.StreamReplaced(),
    d.TemporaryBan(101, 60.0),
    d.Outdated(),
    d.ConnectFailed("400"),
    d.ConnectFailed("429"),
    d.StreamFailed("599"),
    d.Unreachable("no route"),
    d.WorkerDied(1),
]


def policy(**changes: float) -> RetryPolicy:
    """Without jitter: delays are the whole ones."""
    given = {
        "retry_limit": LIMIT,
        "restart_limit": LIMIT,
        "restart_window": WINDOW,
        "refused_first": 100.0,
        "refused_cap": 800.0,
    }
    return RetryPolicy(settings(Path("unused"), **{**given, **changes}), Backoff(1.0, 64.0, lambda: 1.0))


def classified(report: d.Report, paired: bool) -> Input:
    return policy().classify(report, paired, 0.0)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("report", REPORTS, ids=lambda r: type(r).__name__)
def test_what_a_first_report_amounts_to(report: d.Report, paired: bool) -> None:
    other = {
        d.QrShown: Input.KEYS_REJECTED,
        d.PairingCodeShown: Input.KEYS_REJECTED,
        d.ConnectFailed: Input.REFUSED,
        d.CodesUsedUp: Input.UNREACHABLE,
    }
    wanted = other.get(type(report)) if paired else None
    assert classified(report, paired) is (wanted or INPUT_OF[type(report)])


@pytest.mark.parametrize(
    ("reason", "report"),
    [
        ("401", d.LoggedOutByPhone("401")),
        ("403", d.LoggedOutByPhone("403")),
        ("406", d.LoggedOutByPhone("406")),
        ("402", d.TemporaryBan(0, None)),
        ("405", d.Outdated()),
        *[(n, d.ConnectFailed(n)) for n in ("400", "404", "407", "409", "415", "429", "500", "unknown")],
    ],
)
def test_a_connect_failure_whose_number_has_a_report_becomes_that_report(reason: str, report: d.Report) -> None:
    assert normalize(d.ConnectFailed(reason)) == report


def test_other_reports_stay_as_they_are() -> None:
    assert [normalize(report) for report in REPORTS] == REPORTS


def test_failed_dials_beyond_the_limit_are_another_input_until_whatsapp_answers() -> None:
    one = policy()
    assert not one.dial_failed
    causes = [one.classify(d.Unreachable("x"), False, 0.0) for _ in range(LIMIT + 2)]
    assert causes == [Input.UNREACHABLE] * LIMIT + [Input.UNREACHABLE_FOR_LONG] * 2
    assert one.dial_failed
    assert one.delay(0.0) == 16.0  # 1, 2, 4, 8, 16


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: type(r).__name__)
def test_only_an_answer_of_whatsapp_resets_failed_dials(report: d.Report) -> None:
    one = policy()
    one.classify(d.Unreachable("x"), False, 0.0)
    one.classify(report, False, 0.0)
    answers = (d.QrShown, d.PairingCodeShown, d.PairSucceeded, d.Online)
    assert one.dial_failed is not isinstance(report, answers)


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: type(r).__name__)
def test_only_a_connection_resets_refusals(report: d.Report) -> None:
    one = policy()
    for _ in range(3):
        one.classify(d.ConnectFailed("400"), True, 0.0)
    assert one.delay(0.0) == 400.0
    one.classify(report, True, 0.0)
    if isinstance(report, d.Online):
        assert one.delay(0.0) == 0.0
    else:
        assert one.delay(0.0) >= 400.0


def test_refusals_are_spread_up_to_their_own_cap_and_slower_when_asked_too_often() -> None:
    one = policy()
    delays = []
    for _ in range(5):
        one.classify(d.ConnectFailed("400"), True, 0.0)
        delays.append(one.delay(0.0))
    assert delays == [100.0, 200.0, 400.0, 800.0, 800.0]
    one.classify(d.ConnectFailed("429"), True, 0.0)
    assert one.delay(0.0) == 3200.0
    one.classify(d.ConnectFailed("400"), True, 0.0)
    assert one.delay(0.0) == 800.0, "it asks for patience no longer"


def test_a_refusal_of_an_unpaired_link_is_not_counted() -> None:
    one = policy()
    one.classify(d.ConnectFailed("429"), False, 0.0)
    assert one.delay(0.0) == 0.0


@pytest.mark.parametrize("cause", [Input.WORKER_DIED, Input.WORKER_HUNG])
@pytest.mark.parametrize(("paired", "beyond"), [(True, Input.WORKER_KEEPS_DYING), (False, Input.WORKER_CRASHES)])
def test_crashes_beyond_the_limit_within_the_window(cause: Input, paired: bool, beyond: Input) -> None:
    one = policy()
    assert [one.count_death(cause, paired, float(n)) for n in range(LIMIT + 1)] == [cause] * LIMIT + [beyond]
    assert one.crash_looping(float(LIMIT))
    assert one.delay(float(LIMIT)) == 64.0, "the longest, however few dials failed"
    assert one.delay(WINDOW - 1.0) == 64.0
    assert not one.crash_looping(WINDOW), "the first is forgotten"
    assert one.delay(WINDOW) == 4.0
    assert one.delay(10 * WINDOW) == 0.0
    assert one.count_death(cause, paired, 10 * WINDOW) is cause


def test_at_the_limit_it_is_not_crash_looping_yet() -> None:
    one = policy()
    for _ in range(LIMIT):
        one.classify(d.WorkerDied(1), True, 0.0)
    assert not one.crash_looping(0.0)
    assert one.delay(0.0) == 4.0


def test_the_worse_of_the_two_counts_decides_the_delay() -> None:
    one = policy()
    one.classify(d.WorkerDied(1), True, 0.0)
    for _ in range(3):
        one.classify(d.Unreachable("x"), True, 0.0)
    assert one.delay(0.0) == 4.0


def test_a_flood_is_more_than_the_limit_within_the_window() -> None:
    one = policy()
    assert not any(one.flooding(0.0) for _ in range(FLOOD_LIMIT))
    assert one.flooding(FLOOD_WINDOW - 0.1)
    assert not one.flooding(FLOOD_WINDOW), "the first hundred are over"
    one = policy()
    assert not any(one.flooding(n / 8) for n in range(1000)), "nearly as fast as is allowed, for ever"


def test_a_new_start_resets_every_count() -> None:
    one = policy()
    for _ in range(FLOOD_LIMIT):
        one.flooding(0.0)
    for report in (d.WorkerDied(1), d.Unreachable("x"), d.ConnectFailed("429")):
        for _ in range(LIMIT + 1):
            one.classify(report, True, 0.0)
    assert (one.dial_failed, one.crash_looping(0.0), one.delay(0.0)) == (True, True, 3200.0)
    one.reset()
    assert (one.dial_failed, one.crash_looping(0.0), one.delay(0.0)) == (False, False, 0.0)
    assert not any(one.flooding(0.0) for _ in range(FLOOD_LIMIT))
    for report, first in ((d.WorkerDied(1), Input.WORKER_DIED), (d.Unreachable("x"), Input.UNREACHABLE)):
        assert [one.classify(report, True, 0.0) for _ in range(LIMIT)] == [first] * LIMIT
    one.reset()
    one.classify(d.ConnectFailed("400"), True, 0.0)
    assert one.delay(0.0) == 100.0


def test_a_policy_without_reports_has_no_delay() -> None:
    one = policy()
    assert (one.dial_failed, one.crash_looping(0.0), one.delay(0.0)) == (False, False, 0.0)


@given(st.lists(st.floats(0.0, 50.0), max_size=40), st.integers(0, 5), st.floats(0.5, 30.0))
def test_a_budget_counts_what_lies_within_its_window(gaps: list[float], limit: int, window: float) -> None:
    budget = Budget(limit, window)
    times: list[float] = []
    now = 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        within = sum(t > now - window for t in times)
        assert budget.spend(now) is (within <= limit)
        assert budget.spent(now) == within
    budget.clear()
    assert budget.spent(now) == 0
    assert budget.spend(now) is (limit >= 1)


@given(st.integers(0, 2000), st.floats(0.0, 1.0, exclude_max=True))
def test_the_longest_delay_has_the_same_jitter(attempt: int, drawn: float) -> None:
    backoff = Backoff(0.5, 60.0, lambda: drawn)
    assert backoff.longest() == 60.0 * (0.5 + drawn / 2)
    assert backoff.delay(attempt + 1) <= backoff.longest()
    if attempt >= 7:
        assert backoff.delay(attempt + 1) == backoff.longest()
