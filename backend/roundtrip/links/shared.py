"""What all links of one process share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from roundtrip.backoff import Backoff
from roundtrip.clock import TimerClock
from roundtrip.drivers.base import Driver
from roundtrip.identity import BotKey
from roundtrip.links.phone import canonical
from roundtrip.links.policy import Bans
from roundtrip.links.ports import LinkMetrics, Publisher
from roundtrip.links.removals import Removals
from roundtrip.links.session import StartSlots
from roundtrip.links.store import LinkStore
from roundtrip.settings import Settings
from roundtrip.telemetry.tracing import OFF, RequestTracer


@dataclass(slots=True)
class LinkContext:
    """Made once by the service and handed to every link."""

    driver: Driver
    publisher: Publisher
    store: LinkStore
    meter: LinkMetrics
    settings: Settings
    clock: TimerClock
    turns: StartSlots
    retries: Backoff
    check_soon: Callable[[BotKey], None]
    """Have a key's link compared with the library's own word before its turn."""
    shared_changed: Callable[[BotKey], None]
    """A key's account is now, or is no longer, linked under another one too."""
    bans: Bans
    removals: Removals
    outdated: bool = False
    """WhatsApp refuses this version of the library: no session is started but one now and then, to see."""
    _probe_at: float = 0.0
    tracer: RequestTracer = OFF
    accounts: dict[str, set[BotKey]] = field(default_factory=dict)
    """Canonical phone number → the keys it is linked under."""

    def claim(self, phone_number: str, key: BotKey) -> None:
        """Note that a key has this account; the others that have it too are told."""
        keys = self.accounts.setdefault(canonical(phone_number), set())
        if key not in keys:
            keys.add(key)
            self._tell(keys - {key})

    def release(self, phone_number: str | None, key: BotKey) -> None:
        """A key no longer has this account."""
        if phone_number is None or (keys := self.accounts.get(canonical(phone_number))) is None:
            return
        keys.discard(key)
        self._tell(keys)
        if not keys:
            del self.accounts[canonical(phone_number)]

    def elsewhere(self, phone_number: str | None, key: BotKey, *, own: bool = False) -> bool:
        """Whether an account is linked under another key; `own`: under one of the same user."""
        if phone_number is None:
            return False
        keys = self.accounts.get(canonical(phone_number), ())
        return any(other != key and (not own or other.user_id == key.user_id) for other in keys)

    def refused(self, now: float) -> None:
        """WhatsApp refuses this version. `now` is monotonic."""
        self.outdated = True
        self._probe_at = now + self.settings.outdated_retry

    def closed(self, now: float) -> bool:
        """Whether no session may be started for this version now."""
        return self.outdated and now < self._probe_at

    def may_start(self, now: float) -> bool:
        """Whether a session may be started: while this version is refused, one now and then."""
        if not self.outdated:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + self.settings.outdated_retry
        return True

    def _tell(self, keys: Iterable[BotKey]) -> None:
        for key in keys:
            self.shared_changed(key)
