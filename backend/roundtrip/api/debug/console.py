"""The console's state: takes a reading each second, and makes of all that is known what its page shows."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit, urlunsplit

import msgspec
import structlog
from pydantic import SecretStr

from roundtrip.api.debug import verdict
from roundtrip.api.debug.active import ActiveAlert, Alerts
from roundtrip.api.debug.alerts import UNSEEN, Situation, pending_age
from roundtrip.api.debug.misses import MissBook
from roundtrip.api.debug.readings import CHARTS, INTERVAL, WINDOW, History, Reader
from roundtrip.api.debug.stories import Stories
from roundtrip.api.debug.stream import Hub
from roundtrip.api.debug.traces import Traces
from roundtrip.api.health import Readiness
from roundtrip.faults import FAULTS, Faults
from roundtrip.identity import BotKey
from roundtrip.links.payloads import LinkView, Snapshot
from roundtrip.outbox.base import Outbox
from roundtrip.outbox.records import Ended
from roundtrip.runtime import program_version
from roundtrip.settings import PREFIX, Settings
from roundtrip.sockets.registry import Registry
from roundtrip.telemetry.setup import Telemetry

log = structlog.get_logger(__name__)

STEP: Final = 5
"""Readings of one point of a chart."""

NEWEST_MISSES: Final = 100


class Links(Protocol):
    """What is read of the link service."""

    def links(self) -> Sequence[LinkView]: ...

    def snapshot(self, key: BotKey) -> Snapshot: ...


@dataclass(frozen=True, slots=True)
class ConsoleParts:
    """What the console looks at."""

    settings: Settings
    telemetry: Telemetry
    sockets: Registry
    links: Links
    outbox: Outbox
    faults: Faults
    readiness: Readiness


class Console:
    """Lives on the event loop, and looks at its parts from the enter to the exit of its context."""

    def __init__(self, parts: ConsoleParts) -> None:
        self.parts = parts
        self._started = time.time()
        metrics = parts.telemetry.metrics
        reader = self._reader = Reader(metrics, lambda: len(parts.sockets))
        self.history = History(reader.columns, reader.bounds)
        self._rules = Alerts()
        self._active: tuple[ActiveAlert, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._newest_point: dict[str, Any] | None = None
        self.misses = MissBook(lambda key: any(peer.must_ack for peer in parts.sockets.of(key)))
        self.stories = Stories()
        self.hub = Hub()
        self.traces = Traces(parts.telemetry.ring, parts.telemetry.lines)
        self._settings = shown_settings(parts.settings)
        self.misses.on_note = self.hub.miss

    def __enter__(self) -> Self:
        parts = self.parts
        spans, sockets, outbox = parts.telemetry.event_spans, parts.sockets, parts.outbox
        spans.on_missed = self.misses.missed
        spans.on_late_end = self.misses.late_end
        sockets.on_missed = self.misses.looked
        sockets.on_changed = self.stories.changed
        couriers = outbox.on_ended

        def ended(events: Sequence[Ended]) -> None:
            couriers(events)
            self.misses.ended(events)

        outbox.on_ended = ended
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._read()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.hub.close()

    def _read(self) -> None:
        """Once a second: a reading, then what changed for whoever listens."""
        self._due = max(self._due + INTERVAL, self._loop.time())
        self._timer = self._loop.call_at(self._due, self._read)
        try:
            self.history.add(self._reader.read(time.time()))
            self._active = self._rules.look(self._situation())
            self._ticks += 1
            if len(self.hub):
                self.hub.tick(self._sections())
        except Exception as error:  # the next reading may succeed, and nothing else depends on it
            self.parts.telemetry.metrics.task_failures.inc()
            log.exception("console_reading_failed", error=type(error).__name__)

    def state(self, token: str, *, key_needed: bool) -> dict[str, Any]:
        """All that the page needs first. `token` is what its changes must carry."""
        settings = self.parts.settings
        return {
            "at": round(time.time(), 3),
            "token": token,
            "keyNeeded": key_needed,
            "build": {
                "version": program_version(),
                "python": platform.python_version(),
                "started": round(self._started, 3),
                "driver": settings.whatsapp_driver,
                "auth": settings.auth,
            },
            "faultsAllowed": self.parts.faults.allowed,
            "settings": self._settings,
            "unseen": UNSEEN,
            "step": STEP * INTERVAL,
            "series": self.history.points(STEP, CHARTS),
            "traceUrlTemplate": settings.trace_url_template,
            **self._sections(),
        }

    def _sections(self) -> dict[str, Any]:
        """What changes, hence what the stream sends."""
        return {
            "verdict": self.verdict(),
            "totals": self._totals(),
            "window": self._window(),
            "alerts": self._active,
            "misses": self._missed(),
            "ready": self.parts.readiness.last,
            "faults": self.parts.faults.views().faults,
            "telemetry": self._telemetry(),
            "point": self._point(),
        }

    def _situation(self) -> Situation:
        settings, faults = self.parts.settings, self.parts.faults
        on = tuple(fault.name for fault in FAULTS if faults.active(fault.name))
        return Situation(self.history, on, settings.event_ttl, settings.outbox_max_bytes)

    def verdict(self) -> verdict.Verdict:
        report = self.parts.readiness.last
        checks = {} if report is None else report.checks
        ring = self.parts.telemetry.ring
        flapping = self.history.increase("flaps", verdict.RECENT) > 0
        return verdict.judge(
            verdict.Facts(
                self._situation(),
                self.misses.waiting(),
                tuple((check, result.detail) for check, result in checks.items() if not result.ok),
                tuple(link for link in self.parts.links.links() if link.flaps) if flapping else (),
                None if ring is None else ring.newest_failure(),
                None if ring is None else ring.newest_slow(0.1),
            )
        )

    def _totals(self) -> dict[str, Any]:
        """The present moment."""
        h = self.history
        totals = self.parts.sockets.totals
        states = self.parts.telemetry.metrics.presence.links()
        return {
            "sockets": totals.sockets,
            "keys": totals.mapped_keys,
            "users": totals.users,
            "rememberedKeys": totals.remembered_keys,
            "pending": int(h.now("pending")),
            "oldestPendingAge": round(pending_age(self._situation()), 1),
            "outboxBytes": int(h.now("size")),
            "links": {state: count for state, count in states.items() if count},
            "consoles": len(self.hub),
        }

    def _window(self) -> dict[str, Any]:
        """The last quarter of an hour."""
        h = self.history
        reasons = self.parts.telemetry.metrics.label_sets.miss_reasons
        counts = ("created", "acked", "received", "superseded", "expired", "discarded", "sent", "missed")
        by_reason = {reason: int(h.increase(f"missed_{reason}", WINDOW)) for reason in reasons}
        return {
            **{name: int(h.increase(name, WINDOW)) for name in counts},
            "missedByReason": {reason: count for reason, count in by_reason.items() if count},
            "p50": h.quantile("delivery", 0.5, WINDOW),
            "p99": h.quantile("delivery", 0.99, WINDOW),
            "lag": h.quantile("loop_lag", 0.99, WINDOW),
            "write": h.quantile("outbox_write", 0.9, WINDOW),
        }

    def _missed(self) -> dict[str, Any]:
        return {
            "groups": self.misses.groups(),
            "waiting": len(self.misses.waiting()),
            "newest": self.misses.newest(NEWEST_MISSES),
            "forgotten": self.misses.forgotten,
        }

    def _telemetry(self) -> dict[str, Any]:
        """What telemetry keeps and loses."""
        telemetry = self.parts.telemetry
        lines = telemetry.lines
        return {
            "ring": None if telemetry.ring is None else telemetry.ring.state()._asdict(),
            "lineBytes": None if lines is None else lines.bytes,
            "exporting": telemetry.exporting,
            "dropped": int(self.history.now("dropped")),
            "slowConsoles": self.hub.dropped,
        }

    def _point(self) -> dict[str, Any] | None:
        """The newest point of the charts; the same until the next one is due."""
        if self._ticks % STEP and self._newest_point is not None:
            return self._newest_point
        points = self.history.points(STEP, CHARTS)
        self._newest_point = {name: values[-1] for name, values in points.items()} if points["at"] else None
        return self._newest_point


class Shown(msgspec.Struct, frozen=True):
    """A setting as the console shows it."""

    value: str
    default: bool
    """Whether nobody set it to anything else."""


def shown_settings(settings: Settings) -> Mapping[str, Shown]:
    """Every setting: secrets as `set` or `not set`, addresses without their credentials."""
    shown = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr) or name in _SECRETS:
            text = "not set" if value is None else "set"
        elif value is None or value == ():
            text = "not set"
        elif isinstance(value, tuple):
            text = ", ".join(map(str, value))
        else:
            text = without_credentials(str(value))
        shown[PREFIX + name.upper()] = Shown(text, bool(value == field.default))
    return shown


_SECRETS: Final = frozenset(
    name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
)


def without_credentials(text: str) -> str:
    """An address without user, password and query; any other text as it is."""
    if "://" not in text:
        return text
    parts = urlsplit(text)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
