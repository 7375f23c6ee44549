"""What all links of one process share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.identity import BotKey
from backend.links.backoff import Backoff
from backend.links.clock import Clock
from backend.links.driver import Driver
from backend.links.meter import LinkMeter
from backend.links.publisher import Publisher
from backend.links.store import LinkStore
from backend.settings import Settings
from backend.telemetry.request_tracer import OFF, RequestTracer


@dataclass(slots=True)
class House:
    """Made once by the service and handed to every link."""

    driver: Driver
    publisher: Publisher
    store: LinkStore
    meter: LinkMeter
    settings: Settings
    clock: Clock
    slots: asyncio.Semaphore
    retries: Backoff
    check_soon: Callable[[BotKey], None]
    """Have a key's link compared with the library's own word before its turn."""
    outdated: bool = False
    """WhatsApp refuses this version of the library: no session is started until the program is restarted."""
    tracer: RequestTracer = OFF
    accounts: dict[str, set[BotKey]] = field(default_factory=dict)
    """Phone number → the keys it is linked under."""

    def claim(self, phone_number: str, key: BotKey) -> bool:
        """Note that a key has this account; True when another key has it too."""
        keys = self.accounts.setdefault(phone_number, set())
        keys.add(key)
        return len(keys) > 1

    def release(self, phone_number: str | None, key: BotKey) -> None:
        """A key no longer has this account."""
        if phone_number is None or (keys := self.accounts.get(phone_number)) is None:
            return
        keys.discard(key)
        if not keys:
            del self.accounts[phone_number]

    def shared(self, phone_number: str | None) -> bool:
        """Whether an account is linked under several keys."""
        return phone_number is not None and len(self.accounts.get(phone_number, ())) > 1
