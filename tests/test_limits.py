from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roundtrip.auth.authenticators import TrustedAuthenticator
from roundtrip.limits.addresses import Proxies, who
from roundtrip.limits.rates import Buckets, Limited, Limits, Places, Rate, Rules
from roundtrip.sockets.access import Admission
from roundtrip.sockets.handshake import Handshake, Refusal
from tests.support.api import api


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rules(**changes: object) -> Rules:
    settings: dict[str, object] = {
        "handshakes_per_address": Rate(1, 2),
        "handshakes_per_user": Rate(1, 2),
        "pairings_per_hour": 2.0,
        "sockets_per_user": 2,
        "events_per_socket": Rate(1, 2),
        **changes,
    }
    return Rules(**settings)  # type: ignore[arg-type]  # a test's shorthand


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
    buckets = Buckets(Rate(1, 1), Clock(), most=100)
    for number in range(10_000):
        buckets.take(str(number))
    assert len(buckets) == 100


def test_places_are_given_back_and_forgotten() -> None:
    places = Places(2)
    assert [places.enter("a"), places.enter("a"), places.enter("a"), places.enter("b")] == [True, True, False, True]
    places.leave("a")
    assert places.enter("a")
    for _ in range(3):
        places.leave("a")
    assert (places.held("a"), places.held("b")) == (0, 1)


def test_each_refusal_is_counted_under_its_limit() -> None:
    counted: list[str] = []
    limits = Limits(rules(), counted.append, Clock())
    for ask in (limits.handshake_from, limits.handshake_of, limits.pairing, limits.socket):
        ask("somebody")
        ask("somebody")
        with pytest.raises(Limited):
            ask("somebody")
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
    shake = Handshake(None, "ada", "bot", must_ack=False, traceparent=None, remote="127.0.0.1")
    for _ in range(2):
        assert (await admission(shake)).user_id == "ada"
    with pytest.raises(Refusal) as caught:
        await admission(shake)
    assert caught.value.code == "rate_limited"
    assert (await admission.identify(shake)).user_id == "ada"


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


async def test_handshakes_are_limited_by_the_address_that_trusted_proxies_name() -> None:
    limits = Limits(rules(), lambda _limit: None, Clock())
    async with api(limits=limits, proxies=Proxies(["127.0.0.1"])) as served:
        for client in ("10.0.0.1", "10.0.0.2"):
            seen = []
            for _ in range(3):
                status, data, headers = await served.call(
                    "GET", "/socket.io/?EIO=4&transport=polling", headers={"X-Forwarded-For": client}
                )
                seen.append(status)
            assert seen == [404, 404, 429]  # no Socket.IO is attached here
            assert data["code"] == "rate_limited"
            assert headers["Retry-After"] == "1"
        status, _, _ = await served.call("GET", "/socket.io/?EIO=4&transport=polling&sid=x")
        assert status == 404  # what belongs to a connection is no handshake


def test_an_address_behind_proxies() -> None:
    proxies = Proxies(["10.0.0.0/8", "::1"])
    assert proxies.client("9.9.9.9", ["1.1.1.1"]) == "9.9.9.9"  # not one of ours: what it says means nothing
    assert proxies.client("10.0.0.1", []) == "10.0.0.1"
    assert proxies.client("10.0.0.1", ["1.1.1.1"]) == "1.1.1.1"
    assert proxies.client("10.0.0.1", ["6.6.6.6, 1.1.1.1, 10.0.0.2"]) == "1.1.1.1"  # what a client wrote is ignored
    assert proxies.client("10.0.0.1", ["6.6.6.6", "1.1.1.1"]) == "1.1.1.1"
    assert proxies.client("10.0.0.1", ["1.1.1.1, rubbish"]) == "10.0.0.1"
    assert proxies.client("::1", ["[2001:db8::1]:443"]) == "2001:db8::1"
    assert proxies.client("10.0.0.1", ["1.1.1.1:5555"]) == "1.1.1.1"
    assert proxies.client(None, ["1.1.1.1"]) == ""
    assert Proxies().client("10.0.0.1", ["1.1.1.1"]) == "10.0.0.1"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_whatever_is_forwarded_an_address_comes_out(headers: list[str]) -> None:
    assert Proxies(["10.0.0.0/8"]).client("10.0.0.1", headers)


def test_an_ipv6_customer_is_one_whatever_address_he_takes() -> None:
    assert who("2001:db8:1:2::1") == who("2001:db8:1:2:ffff:ffff:ffff:ffff") == "2001:db8:1:2::/64"
    assert who("2001:db8:1:3::1") != who("2001:db8:1:2::1")
    assert who("::ffff:192.0.2.7") == who("192.0.2.7") == "192.0.2.7"
    assert who("192.0.2.7") != who("192.0.2.8")
    assert who("fe80::1%eth0") == "fe80::/64"
    assert who("") == ""
    assert Proxies(["10.0.0.0/8"]).trusts("::ffff:10.1.2.3")


async def test_handshakes_of_one_ipv6_network_are_counted_together() -> None:
    limits = Limits(rules(), lambda _limit: None, Clock())
    async with api(limits=limits, proxies=Proxies(["127.0.0.1"])) as served:

        async def shake(client: str) -> int:
            headers = {"X-Forwarded-For": client}
            return (await served.call("GET", "/socket.io/?EIO=4&transport=polling", headers=headers))[0]

        assert [await shake(f"2001:db8::{number}") for number in range(3)] == [404, 404, 429]
        assert await shake("2001:db8:0:1::1") == 404


def test_a_refusal_names_its_limit_and_says_why() -> None:
    limits = Limits(rules(sockets_per_user=1), lambda _: None)
    limits.socket("a")
    with pytest.raises(Limited, match="1 sockets already") as caught:
        limits.socket("a")
    assert (caught.value.limit, caught.value.retry_after) == ("connections_per_user", None)
    assert str(caught.value) == caught.value.message


def test_a_place_given_back_is_one_place() -> None:
    places = Places(3)
    for _ in range(3):
        assert places.enter("a")
    for left in (2, 1, 0):
        places.leave("a")
        assert places.held("a") == left
    assert not places._held  # who holds none is forgotten
