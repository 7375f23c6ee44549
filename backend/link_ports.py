"""What links are given of the other parts: somewhere to publish, something to count with. And what they give back."""

from __future__ import annotations

from backend.delivery.courier import Courier
from backend.delivery.outbox import OutboxError
from backend.delivery.sqlite_outbox import SqliteOutbox
from backend.events import Payload
from backend.identity import BotKey
from backend.links.publisher import PublishError
from backend.links.snapshot import LinkState
from backend.telemetry.metrics import Metrics


class CourierPublisher:
    """Implements `links.publisher.Publisher`: a link's events go to the courier."""

    def __init__(self, courier: Courier, outbox: SqliteOutbox) -> None:
        self._courier = courier
        self._outbox = outbox

    @property
    def full(self) -> bool:
        return self._outbox.full

    async def check(self) -> None:
        try:
            await self._outbox.check()
        except OutboxError as error:
            raise PublishError(error.code, error.message) from error

    async def publish(
        self, key: BotKey, link_id: str, payload: Payload, *, expires_at: int | None, traceparent: str | None
    ) -> None:
        try:
            await self._courier.publish(key, link_id, payload, expires_at=expires_at, traceparent=traceparent)
        except OutboxError as error:
            raise PublishError(error.code, error.message) from error


class LinkMetrics:
    """Implements `links.meter.LinkMeter` over the catalogue."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def transition(self, to: LinkState, reason: str) -> None:
        self._metrics.transition(to, reason)

    def pairing_seconds(self, seconds: float) -> None:
        self._metrics.link_pairing.observe(seconds)

    def restart(self) -> None:
        self._metrics.link_restarts.inc()

    def flap(self) -> None:
        self._metrics.link_flaps.inc()

    def correction(self) -> None:
        self._metrics.link_corrections.inc()

    def worker_exit(self, reason: str) -> None:
        self._metrics.worker_exits[reason].inc()


