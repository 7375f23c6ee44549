"""Token buckets and slots, and each limit that is made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.auth.authenticators import TrustedAuthenticator
from roundtrip.limits.rates import Buckets, Limited, Limits, Rate, Slots
from roundtrip.sockets.access import Admission, Handshake, Refusal
from tests.limits.helpers import Clock, rules
from tests.support.api import api


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    buckets = Buckets(Rate(2, 3), clock)
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0.0  # others have their own
    clock.now += 0.5
    assert buckets.take("a") == 0.0
    assert buckets.take("a") > 0
    clock.now += 100
    assert [buckets.take("a") > 0 for _ in range(4)] == [False, False, False, True]  # never more than the burst


@given(st.lists(st.floats(0, 10), max_size=60), st.floats(0.5, 50), st.integers(1, 20))
def test_never_more_than_the_burst_and_the_rate_allow(gaps: list[float], per_second: float, burst: int) -> None:
    clock = Clock()
    buckets = Buckets(Rate(per_second, burst), clock)
    taken = 0
    for gap in gaps:
        clock.now += gap
        for _ in range(3):
            wait = buckets.take("a")
            taken += wait == 0.0
            assert 0 <= wait <= 1 / per_second + 1e-6
    assert taken <= burst + clock.now * per_second + 1e-6


def test_memory_is_bounded() -> None:
    buckets = Buckets(Rate(1, 1), Clock(), max_callers=100)
    for number in range(10_000):
        buckets.take(str(number))
    assert len(buckets) == 100


def test_slots_are_given_back_and_forgotten() -> None:
    slots = Slots(2)
    assert [slots.acquire("a"), slots.acquire("a"), slots.acquire("a"), slots.acquire("b")] == [True, True, False, True]
    slots.release("a")
    assert slots.acquire("a")
    for _ in range(3):
        slots.release("a")
    assert (slots.held("a"), slots.held("b")) == (0, 1)


def test_each_refusal_is_counted_under_its_limit() -> None:
    counted: list[str] = []
    limits = Limits(rules(), counted.append, Clock())
    for acquire in (limits.handshake_from, limits.handshake_of, limits.pairing, limits.socket):
        acquire("somebody")
        acquire("somebody")
        with pytest.raises(Limited):
            acquire("somebody")
    assert [limits.message("sid") for _ in range(3)] == [True, True, False]
    assert limits.message("another")
    assert counted == [
        "handshakes_per_address",
        "handshakes_per_user",
        "pairings_per_hour",
        "connections_per_user",
        "events_per_socket",
    ]


async def test_a_user_who_connects_too_often_is_refused() -> None:
    admission = Admission(TrustedAuthenticator(), Limits(rules(), lambda _limit: None, Clock()))
    handshake = Handshake(None, "ada", "bot", must_ack=False, traceparent=None, remote="127.0.0.1")
    for _ in range(2):
        assert (await admission(handshake)).user_id == "ada"
    with pytest.raises(Refusal) as caught:
        await admission(handshake)
    assert caught.value.code == "rate_limited"
    assert (await admission.identify(handshake)).user_id == "ada"


async def test_pairings_are_limited_but_asking_again_is_not() -> None:
    limits = Limits(rules(), lambda _limit: None, Clock())
    async with api(limits=limits) as served:
        for _ in range(5):
            status, _, _ = await served.call("PUT", "/api/bots/one/link")
            assert status == 202
        assert (await served.call("PUT", "/api/bots/two/link"))[0] == 202
        status, data, headers = await served.call("PUT", "/api/bots/three/link")
        assert (status, data["code"]) == (429, "rate_limited")
        assert int(headers["Retry-After"]) == 1800
        assert (await served.call("PUT", "/api/bots/three/link", user="eve"))[0] == 202


def test_a_refusal_names_its_limit_and_says_why() -> None:
    limits = Limits(rules(sockets_per_user=1), lambda _: None)
    limits.socket("a")
    with pytest.raises(Limited, match="1 sockets already") as caught:
        limits.socket("a")
    assert (caught.value.limit, caught.value.retry_after) == ("connections_per_user", None)
    assert str(caught.value) == caught.value.message


def test_a_release_frees_one_slot() -> None:
    slots = Slots(3)
    for _ in range(3):
        assert slots.acquire("a")
    for left in (2, 1, 0):
        slots.release("a")
        assert slots.held("a") == left
    assert not slots._held  # who holds none is forgotten
