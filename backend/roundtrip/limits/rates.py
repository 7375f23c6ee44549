"""Rate limits and quotas per caller. Memory is bounded: a caller that is evicted starts with a full burst."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from roundtrip.errors import RoundtripError
from roundtrip.limits.addresses import address_group
from roundtrip.settings import Settings

MAX_CALLERS: Final = 50_000
"""Callers that one limit tracks at once."""


class Rate(msgspec.Struct, frozen=True):
    """`burst` at once, then `per_second`."""

    per_second: float
    burst: float


PAGE_TRACES_PER_USER: Final = Rate(5.0, 30.0)
PAGE_TRACES_PER_ADDRESS: Final = Rate(100.0, 500.0)
"""Requests a second with spans of pages, and at once. A page sends one a second at the most."""


class Limited(RoundtripError):  # noqa: N818  # a refusal, not a fault
    """Over a limit: `rate_limited`. `limit` names it."""

    def __init__(self, limit: str, message: str, retry_after: float | None) -> None:
        super().__init__("rate_limited", message, retry_after)
        self.limit = limit


class Buckets:
    """A token bucket per caller, as one number each: the time at which the bucket will be full again (GCRA)."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic, max_callers: int = MAX_CALLERS) -> None:
        self._gap = 1.0 / rate.per_second
        self._burst_time = rate.burst * self._gap
        self._clock = clock
        self._max_callers = max_callers
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, caller: str) -> float:
        """Take one token: 0.0, or the seconds until there is one."""
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + self._gap
        if full_at - now > self._burst_time + 1e-9:
            return full_at - now - self._burst_time
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > self._max_callers:
            self._full_at.popitem(last=False)  # the caller that was idle for longest
        return 0.0

    def forget(self, caller: str) -> None:
        """Drop a caller that will not come back under this name."""
        self._full_at.pop(caller, None)


class Slots:
    """A quota: each caller holds at most `limit` slots at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: Counter[str] = Counter()

    def acquire(self, caller: str, elsewhere: int = 0) -> bool:
        """Take one, unless the caller holds as many as it may with those that it holds `elsewhere`."""
        if self._held[caller] + elsewhere >= self.limit:
            return False
        self._held[caller] += 1
        return True

    def release(self, caller: str) -> None:
        """Free a slot; a caller that holds none is dropped."""
        if self._held[caller] <= 1:
            del self._held[caller]
        else:
            self._held[caller] -= 1

    def held(self, caller: str) -> int:
        return self._held.get(caller, 0)


class Rules(msgspec.Struct, frozen=True):
    """The limits that the settings name. Rates are per second unless named otherwise."""

    handshakes_per_address: Rate
    handshakes_per_user: Rate
    pairings_per_hour: float
    sockets_per_user: int
    events_per_socket: Rate

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        return cls(
            Rate(settings.handshakes_per_address, settings.handshakes_per_address_burst),
            Rate(settings.handshakes_per_user, settings.handshakes_per_user_burst),
            settings.pairings_per_hour,
            settings.max_sockets_per_user,
            Rate(settings.events_per_socket, settings.events_per_socket_burst),
        )


class Limits:
    """The limits of one process. `refused(limit)` counts each refusal."""

    def __init__(
        self, rules: Rules, refused: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused = refused
        """Also for a refusal that is decided elsewhere."""
        self._address = Buckets(rules.handshakes_per_address, clock)
        self._user = Buckets(rules.handshakes_per_user, clock)
        hourly = Rate(rules.pairings_per_hour / 3600.0, rules.pairings_per_hour)
        self._pairings = Buckets(hourly, clock)
        self._messages = Buckets(rules.events_per_socket, clock)
        self._page_traces = Buckets(PAGE_TRACES_PER_USER, clock), Buckets(PAGE_TRACES_PER_ADDRESS, clock)
        self.sockets = Slots(rules.sockets_per_user)
        """By user id."""

    def handshake_from(self, address: str) -> None:
        """A client begins a handshake; the addresses of one IPv6 /64 count as one. Raises `Limited`."""
        self._take(
            self._address,
            address_group(address),
            "handshakes_per_address",
            "Too many connections come from your address.",
        )

    def handshake_of(self, user_id: str) -> None:
        """A handshake was authenticated as this user. Raises `Limited`."""
        self._take(self._user, user_id, "handshakes_per_user", "Too many new sockets of this user; wait a moment.")

    def pairing(self, user_id: str) -> None:
        """A user starts to link an account. Raises `Limited`."""
        self._take(self._pairings, user_id, "pairings_per_hour", "You start too many pairings; WhatsApp would mind.")

    def page_traces(self, user_id: str, address: str) -> None:
        """A page of this user sends spans. Raises `Limited`."""
        of_users, of_addresses = self._page_traces
        text = "Too many requests with spans; send them in larger batches."
        self._take(of_users, user_id, "page_traces_per_user", text)
        self._take(of_addresses, address_group(address), "page_traces_per_address", text)

    def socket(self, user_id: str, elsewhere: int = 0) -> None:
        """Take a slot for a socket of this user, freed with `sockets.release`; so many are on other nodes. Raises
        `Limited`."""
        if not self.sockets.acquire(user_id, elsewhere):
            self.refused("connections_per_user")
            raise Limited("connections_per_user", f"You have {self.sockets.limit} sockets already; close one.", None)

    def message(self, socket: str) -> bool:
        """Count a message of a socket: False for one too many."""
        if self._messages.take(socket) == 0.0:
            return True
        self.refused("events_per_socket")
        return False

    def socket_gone(self, socket: str) -> None:
        """Drop what is counted for a closed socket."""
        self._messages.forget(socket)

    def _take(self, buckets: Buckets, caller: str, limit: str, message: str) -> None:
        wait = buckets.take(caller)
        if wait > 0.0:
            self.refused(limit)
            raise Limited(limit, message, wait)
