"""What all links of one process share: the driver, the stores, the limits, and which accounts are linked where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from roundtrip.backoff import Backoff
from roundtrip.clock import TimerClock
from roundtrip.drivers.base import Driver
from roundtrip.events import LinkRow, Payload
from roundtrip.identity import BotKey
from roundtrip.links.metrics import LinkMetrics
from roundtrip.links.phone import canonical
from roundtrip.links.policy import Bans
from roundtrip.links.removals import Removals
from roundtrip.links.session import StartSlots
from roundtrip.links.storage import LinkStorage
from roundtrip.settings import Settings
from roundtrip.telemetry.tracing import OFF, RequestTracer


class Publisher(Protocol):
    """Stores and delivers events: the courier, or a fake in tests."""

    @property
    def full(self) -> bool:
        """Whether there is no room for a new event now."""

    async def check(self) -> None:
        """Return when an event could be stored now. Raises `StorageError`."""

    async def publish(
        self,
        key: BotKey,
        link_id: str,
        payload: Payload,
        *,
        expires_at: int | None,
        traceparent: str | None,
        state: LinkRow | None = None,
    ) -> object:
        """Return once the event is committed, and `state` with it. `expires_at` is in milliseconds since the epoch.

        Raises `StorageError`, and then nothing was stored.
        """


@dataclass(slots=True)
class LinkContext:
    """Made once by the service and handed to every link."""

    driver: Driver
    publisher: Publisher
    store: LinkStorage
    metrics: LinkMetrics
    settings: Settings
    clock: TimerClock
    start_slots: StartSlots
    retries: Backoff
    request_check: Callable[[BotKey], None]
    """Reconcile a key's link with its driver now, before the next periodic check."""
    sharing_changed: Callable[[BotKey], None]
    """Called when another key began or ceased to have the same account as this one."""
    bans: Bans
    removals: Removals
    outdated: bool = False
    """WhatsApp refuses this version of the library: sessions are started only one at a time, to find out whether it
    still does."""
    _probe_at: float = 0.0
    """While `outdated`: when the next session may be started, on the monotonic clock."""
    tracer: RequestTracer = OFF
    accounts: dict[str, set[BotKey]] = field(default_factory=dict)
    """Canonical phone number → the keys it is linked under."""

    def claim(self, phone_number: str, key: BotKey) -> None:
        """Note that a key has this account, and notify the other keys that have it."""
        keys = self.accounts.setdefault(canonical(phone_number), set())
        if key not in keys:
            keys.add(key)
            self._notify(keys - {key})

    def release(self, phone_number: str | None, key: BotKey) -> None:
        """Note that a key no longer has this account, and notify the other keys that have it."""
        if phone_number is None or (keys := self.accounts.get(canonical(phone_number))) is None:
            return
        keys.discard(key)
        self._notify(keys)
        if not keys:
            del self.accounts[canonical(phone_number)]

    def linked_elsewhere(self, phone_number: str | None, key: BotKey, *, own: bool = False) -> bool:
        """Whether an account is linked under another key; with `own` only keys of the same user count."""
        if phone_number is None:
            return False
        keys = self.accounts.get(canonical(phone_number), ())
        return any(other != key and (not own or other.user_id == key.user_id) for other in keys)

    def version_refused(self, now: float) -> None:
        """WhatsApp refuses this version. `now` is monotonic."""
        self.outdated = True
        self._probe_at = now + self.settings.outdated_retry

    def starts_blocked(self, now: float) -> bool:
        """Whether no session may be started now because this version is refused. Changes nothing."""
        return self.outdated and now < self._probe_at

    def may_start(self, now: float) -> bool:
        """Whether a session may be started now. While this version is refused, one per `outdated_retry` seconds may: a
        True uses that one up.
        """
        if not self.outdated:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + self.settings.outdated_retry
        return True

    def _notify(self, keys: Iterable[BotKey]) -> None:
        for key in keys:
            self.sharing_changed(key)
