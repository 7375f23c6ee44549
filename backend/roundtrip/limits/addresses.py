"""A client's address, seen through the proxies that the settings name and no others."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

from aiohttp import web

ADDRESS: Final = web.RequestKey("address", str)
"""Where a request keeps its client's address, as seen through the proxies that are trusted."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """`allowed` are addresses and networks whose `X-Forwarded-For` is believed. Raises `ValueError` for others."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text, strict=False) for text in allowed)

    def client(self, peer: str | None, forwarded: Iterable[str]) -> str:
        """The nearest address that is no proxy of ours. `forwarded` are the `X-Forwarded-For` headers, in order."""
        address = peer or ""
        if not self._networks or not self.trusts(address):
            return address
        hops = [hop.strip() for header in forwarded for hop in header.split(",")]
        for hop in reversed(hops):
            text = _address(hop)
            if text is None:
                return address  # a proxy of ours would not write this: trust the last hop that was understood
            address = text
            if not self.trusts(address):
                break
        return address

    def trusts(self, address: str) -> bool:
        """Whether an address is one of ours."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # a listener on both families sees IPv4 like this
        return any(parsed in network for network in self._networks)


def _address(hop: str) -> str | None:
    """An address, which some proxies write with its port."""
    for text in (hop, hop.rpartition(":")[0].strip("[]"), hop.strip("[]")):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            continue
    return None


@functools.lru_cache(8192)
def who(address: str) -> str:
    """Whom an address stands for, where addresses are counted: an IPv6 customer is given a /64 at the least, and has
    as many addresses as he likes."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
