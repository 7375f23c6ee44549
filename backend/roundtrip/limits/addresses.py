"""Client addresses: as seen through trusted proxies only, and grouped where they are counted."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

from aiohttp import web

ADDRESS: Final = web.RequestKey("address", str)
"""Where a request keeps its client's address, as found by `Proxies.client`."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """`allowed` are addresses and networks whose `X-Forwarded-For` is believed. Raises `ValueError` for others."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text, strict=False) for text in allowed)

    def client(self, peer: str | None, forwarded: Iterable[str]) -> str:
        """The nearest address that is no trusted proxy. `forwarded` are the `X-Forwarded-For` headers, in order."""
        address = peer or ""
        if not self._networks or not self.trusts(address):
            return address
        hops = [hop.strip() for header in forwarded for hop in header.split(",")]
        for hop in reversed(hops):
            text = _address(hop)
            if text is None:
                return address  # no trusted proxy writes this: keep the last hop that could be read
            address = text
            if not self.trusts(address):
                break
        return address

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # how a dual-stack listener sees IPv4
        return any(parsed in network for network in self._networks)


def _address(hop: str) -> str | None:
    """The address of one hop, with or without a port; None if it is none."""
    for text in (hop, hop.rpartition(":")[0].strip("[]"), hop.strip("[]")):
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            continue
    return None


@functools.lru_cache(8192)
def address_group(address: str) -> str:
    """What an address is counted as: IPv4 addresses by themselves, IPv6 by their /64, which is the least that one
    customer is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
