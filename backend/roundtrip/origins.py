"""Origins of web pages (RFC 6454: scheme, host, port): read from settings, and which of them may call this backend."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

import structlog

SETTING: Final = "ROUNDTRIP_CORS_ORIGINS"

ANY: Final = "*"
"""Every origin."""

OPAQUE: Final = "null"
"""What a browser sends for a page that was opened from a file."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_LOGGED_ORIGINS: Final = 100
"""Refused origins that are logged, each once: a client chooses what it sends."""

log = structlog.get_logger(__name__)


def parse_origin(text: str) -> str:
    """An origin as browsers send it: lower case, no trailing slash, no default port. `*` and `null` stay as they are.

    Raises `ValueError` with a sentence that repeats the value.
    """
    if text in {ANY, OPAQUE}:
        return text
    scheme, separator, _ = text.partition("://")
    if not separator or not scheme:
        raise ValueError(f"{text!r} has no scheme: write https://{text.strip('/')} or http://{text.strip('/')}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not an origin: write scheme://host or scheme://host:port") from None
    if not host or "*" in host or parts.username is not None:
        raise ValueError(f"{text!r} is not an origin: write scheme://host or scheme://host:port, without wildcards")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is an address, not an origin: leave out what follows the host and port")
    name = f"[{host}]" if ":" in host else host
    number = "" if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f":{port}"
    return f"{parts.scheme}://{name}{number}"


class Origins:
    """Which origins' pages may call: those configured and the backend's own."""

    def __init__(self, allowed: Collection[str] = (), *, loopback: bool = False) -> None:
        """`allowed` as `parse_origin` returns them; `loopback` allows loopback origins of any port: for development."""
        self._allowed = frozenset(allowed)
        self._loopback = loopback
        self._logged: set[str] = set()

    def __bool__(self) -> bool:
        """Whether any other origin than the backend's own may be allowed."""
        return bool(self._allowed) or self._loopback

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may call; `host` is the request's. A refusal is logged once per origin."""
        if ANY in self._allowed or origin in self._allowed or origin in {f"http://{host}", f"https://{host}"}:
            return True
        if self._loopback and _is_loopback_origin(origin):
            return True
        if origin not in self._logged and len(self._logged) < _LOGGED_ORIGINS:
            self._logged.add(origin)
            log.warning(
                "origin_refused",
                origin=origin[:200],
                setting=SETTING,
                detail=f"Pages of this origin may not call. To allow it, add it to {SETTING}.",
            )
        return False


def _is_loopback_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.scheme in _DEFAULT_PORTS and parts.hostname is not None and names_loopback(parts.hostname)
    except ValueError:
        return False


def names_loopback(host: str) -> bool:
    """Whether a host name always means the machine that resolves it."""
    return is_loopback(host) or host.endswith(".localhost")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
