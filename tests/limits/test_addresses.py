"""Client addresses behind proxies, and IPv6 networks counted as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roundtrip.limits.addresses import Proxies, address_group
from roundtrip.limits.rates import Limits
from tests.limits.helpers import Clock, rules
from tests.support.api import api


async def test_handshakes_are_limited_by_the_address_that_trusted_proxies_name() -> None:
    limits = Limits(rules(), lambda _limit: None, Clock())
    async with api(limits=limits, proxies=Proxies(["127.0.0.1"])) as served:
        for client in ("10.0.0.1", "10.0.0.2"):
            statuses = []
            for _ in range(3):
                status, data, headers = await served.call(
                    "GET", "/socket.io/?EIO=4&transport=polling", headers={"X-Forwarded-For": client}
                )
                statuses.append(status)
            assert statuses == [404, 404, 429]  # no Socket.IO is attached here
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


def test_ipv6_addresses_are_grouped_by_network() -> None:
    assert address_group("2001:db8:1:2::1") == address_group("2001:db8:1:2:ffff:ffff:ffff:ffff") == "2001:db8:1:2::/64"
    assert address_group("2001:db8:1:3::1") != address_group("2001:db8:1:2::1")
    assert address_group("::ffff:192.0.2.7") == address_group("192.0.2.7") == "192.0.2.7"
    assert address_group("192.0.2.7") != address_group("192.0.2.8")
    assert address_group("fe80::1%eth0") == "fe80::/64"
    assert address_group("") == ""
    assert Proxies(["10.0.0.0/8"]).trusts("::ffff:10.1.2.3")


async def test_handshakes_of_one_ipv6_network_are_counted_together() -> None:
    limits = Limits(rules(), lambda _limit: None, Clock())
    async with api(limits=limits, proxies=Proxies(["127.0.0.1"])) as served:

        async def handshake(client: str) -> int:
            headers = {"X-Forwarded-For": client}
            return (await served.call("GET", "/socket.io/?EIO=4&transport=polling", headers=headers))[0]

        assert [await handshake(f"2001:db8::{number}") for number in range(3)] == [404, 404, 429]
        assert await handshake("2001:db8:0:1::1") == 404
