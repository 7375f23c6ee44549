"""What serves the canary's events: the user's path once more, over the same outbox and Socket.IO server, counted apart.

Its registry, courier and replayer are the same classes as those of users, and objects of their own. So nothing of the
canary is in `sockets`, `mapped_keys`, the attempts, misses and deliveries, the spans or `/debug/sockets`, without a
condition on the path of a user's event. In the outbox, which is shared, its events have a key that no caller can have
and a type that no metric lists.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from roundtrip.backoff import Backoff
from roundtrip.canary.page import ELSEWHERE
from roundtrip.clock import Clock
from roundtrip.delivery.courier import Courier
from roundtrip.delivery.inflight import KeyInFlight
from roundtrip.delivery.metrics import Misses
from roundtrip.delivery.replay import Replayer
from roundtrip.delivery.state import Delivery
from roundtrip.delivery.wire import Socket
from roundtrip.events import Canary
from roundtrip.faults import Faults
from roundtrip.identity import BotKey, Principal
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Attempt, Outcome, StoredEvent
from roundtrip.sockets.access import Handshake, Refusal
from roundtrip.sockets.registry import Registry
from roundtrip.sockets.server import Lane

LINK_ID: Final = "canary"

_CREDENTIAL: Final = "canary."
"""What a canary's token begins with. No token of an issuer does: a JWT begins with an encoded brace."""

_WATERMARK: Final = 1 << 16


class CanaryGate:
    """Admits this process's own canary, once for each credential, and hands every other handshake on."""

    def __init__(self, key: BotKey, admit: Callable[[Handshake], Awaitable[Principal]]) -> None:
        """`admit` authenticates users."""
        self._principal = Principal(key.user_id, key=key)
        self._admit = admit
        self._credential: str | None = None

    def issue(self) -> str:
        """A new credential, in place of the one before."""
        self._credential = _CREDENTIAL + secrets.token_urlsafe(32)
        return self._credential

    def withdraw(self) -> None:
        """Admit no canary until the next `issue`."""
        self._credential = None

    async def __call__(self, handshake: Handshake) -> Principal:
        """Raises as `admit` does, and `Refusal` for another process's canary."""
        token = handshake.token
        if not isinstance(token, str) or not token.startswith(_CREDENTIAL):
            return await self._admit(handshake)
        issued = self._credential
        if issued is None or not hmac.compare_digest(token.encode("utf-8", "replace"), issued.encode()):
            raise Refusal(ELSEWHERE, "This canary is not this node's.")
        self._credential = None
        return self._principal


class CanaryLane:
    """Publishes canaries, and tells when one was acknowledged."""

    def __init__(
        self,
        key: BotKey,
        outbox: Outbox,
        faults: Faults,
        snapshot: Callable[[BotKey, int], Awaitable[msgspec.Struct]],
        failed: Callable[[], None],
        *,
        timeout: float,
        clock: Clock,
    ) -> None:
        """`timeout` is the seconds after which a canary expires. `failed` is called for a mistake of this program."""
        self._key = key
        self._ttl_ms = int(timeout * 1000)
        self._clock = clock
        self._acked: dict[int, asyncio.Future[None]] = {}
        registry, spans = Registry(), _NoSpans()
        heard = outbox.on_ended
        self.courier = Courier(
            outbox,
            registry,
            spans,
            _Acks(self._settle, failed),
            faults,  # the faults of users' events: what they lose, the canary loses
            event_ttl=timeout,
            ack_timeout=timeout,
            backoff=Backoff(timeout, timeout),
            clock=clock,
        )
        outbox.on_ended = heard  # one listener: a canary that the outbox ends is of a round that has failed
        self._replayer = _Replayer(outbox, self.courier, spans, snapshot, watermark=_WATERMARK, clock=clock)
        self.sockets = Lane(registry, self.courier, self._replayer, _NoCounts(failed))

    async def publish(self) -> StoredEvent:
        """Store a canary and emit it, to a page that is up to date: else its replay could make up for an event that
        was lost. Raises `OutboxError`."""
        pages = self.sockets.registry.of(self._key)
        while not any(page.live for page in pages):
            self._replayer.over.clear()
            await self._replayer.over.wait()
            pages = self.sockets.registry.of(self._key)
        self._acked.clear()
        end = self._clock.wall_ns() // 1_000_000 + self._ttl_ms
        return await self.courier.publish(self._key, LINK_ID, Canary(), expires_at=end)

    async def acknowledged(self, event: StoredEvent) -> None:
        """Return when the event has ended as acknowledged."""
        await self._of(event.seq)

    def _settle(self, delivery: Delivery) -> None:
        if delivery.state.outcome is Outcome.ACKED:
            acked = self._of(delivery.event.seq)
            if not acked.done():
                acked.set_result(None)

    def _of(self, seq: int) -> asyncio.Future[None]:
        return self._acked.setdefault(seq, asyncio.get_running_loop().create_future())


class _Replayer(Replayer):
    """Tells when the page's replay is over."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        """As `Replayer`."""
        super().__init__(*parts, **options)
        self.over = asyncio.Event()

    async def run(self, peer: Socket, channel: KeyInFlight, connect_parent: str | None) -> int:
        count = await super().run(peer, channel, connect_parent)
        self.over.set()
        return count


class _Acks:
    """`DeliveryMetrics` that count nothing."""

    def __init__(self, delivered: Callable[[Delivery], None], failed: Callable[[], None]) -> None:
        self.delivered = delivered
        self.failed = failed

    def sent(self, delivery: Delivery) -> None: ...

    def missed(self, delivery: Delivery, attempt: Attempt) -> None: ...

    def upgraded(self, delivery: Delivery) -> None: ...

    def slowed(self) -> None: ...


class _NoCounts:
    """`SocketMetrics` that count nothing but mistakes of this program."""

    def __init__(self, failed: Callable[[], None]) -> None:
        self.step_failed = failed

    def connected(self, result: str) -> None: ...

    def disconnected(self, reason: str, lifetime: float) -> None: ...

    def packet_refused(self, what: str) -> None: ...

    def packet_too_large(self) -> None: ...


class _NoSpans:
    """`DeliverySpans` that record nothing: a round's log line says in which stage it failed."""

    def context(self, parent: str | None) -> str:
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"

    def attempted(self, delivery: Delivery, attempt: Attempt) -> None: ...

    def round_missed(self, misses: Misses) -> None: ...

    def created(self, delivery: Delivery) -> None: ...

    def settled(self, delivery: Delivery) -> None: ...

    def upgraded(self, delivery: Delivery) -> None: ...

    def replay(self, key: BotKey, sid: str, connect_parent: str | None) -> str | None:
        return None

    def replayed(self, key: BotKey, replay_parent: str | None, started_ns: int, count: int) -> None: ...
