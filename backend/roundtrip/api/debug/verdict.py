"""The verdict: one sentence that says whether every event reached its page, and if not, why and whose.

It judges the present: events that wait still after a miss, and what happened within `RECENT`. Its rules have the names
and thresholds of the alerts (`alerts.py`), without their waiting time: who looks at the console wants to know now, and
wants to see at once that a cure worked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from roundtrip.api.debug import alerts
from roundtrip.api.debug.alert_table import ALERTS
from roundtrip.api.debug.alerts import Situation, above, at_least
from roundtrip.api.debug.misses import MissGroup, MissNote, grouped
from roundtrip.api.debug.readings import PAIRING_TYPES, WINDOW
from roundtrip.links.payloads import LinkView

RECENT: Final = 10.0
"""Seconds for which a failure that is over still counts."""

LEVELS: Final = ("critical", "warning", "info", "ok")


class Finding(msgspec.Struct, frozen=True, rename="camel"):
    """One thing that is to be said. `cause` is for programs; `alert` names the runbook; `target` is an address of the
    console that shows what it is about."""

    level: str
    cause: str
    text: str
    target: str
    alert: str | None = None


class Verdict(msgspec.Struct, frozen=True, rename="camel"):
    """The worst finding, and the others."""

    level: str
    cause: str
    text: str
    target: str
    alert: str | None
    others: tuple[Finding, ...]


class Facts(msgspec.Struct, frozen=True):
    """What the verdict is made from."""

    situation: Situation
    waiting: Sequence[MissNote]
    """Events that missed and wait still, from old to new."""
    not_ready: tuple[tuple[str, str], ...]
    """Failing readiness checks with their sentences."""
    flapping: tuple[LinkView, ...]
    failed_request: str | None = None
    """The newest trace of a request that failed."""
    slow_event: str | None = None
    """The newest event that waited long for its commit."""


def judge(facts: Facts) -> Verdict:
    found = [finding for rule in _RULES for finding in rule(facts)]
    found.sort(key=lambda finding: LEVELS.index(finding.level))
    worst = found[0] if found else _all_well(facts)
    return Verdict(worst.level, worst.cause, worst.text, worst.target, worst.alert, tuple(found[1:]))


def event_page(event_id: str) -> str:
    return f"/console/events/{quote(event_id, safe='')}"


def events(count: float, one: str = "", several: str = "") -> str:
    """`1 event waits`, `3 events wait`: with the verb's form for one and for several."""
    return f"1 event {one}".rstrip() if count == 1 else f"{count:.0f} events {several}".rstrip()


def _outbox(facts: Facts) -> Iterator[Finding]:
    h = facts.situation.history
    failing = dict(facts.not_ready).get("outbox")
    if failing is not None or h.increase("outbox_failures", RECENT) > 0:
        what = "The event store cannot be written"
        wait = events(h.now("pending"), "waits", "wait")
        target = "/console/health" if facts.failed_request is None else f"/console/traces/{facts.failed_request}"
        text = f"{what}: new links are refused and nothing new is emitted. What is stored is not lost; {wait}."
        yield Finding("critical", "outbox_failing", text, target, "RoundtripOutboxFailing")
    slow = above(h.quantile("outbox_write", 0.9, RECENT), ALERTS["RoundtripOutboxSlow"].limits[0])
    if slow is not None:
        target = "/console/health" if facts.slow_event is None else event_page(facts.slow_event)
        text = f"The event store is slow: a tenth of its commits take longer than {slow:.2g} s, and every event waits."
        yield Finding("warning", "outbox_slow", text, target, "RoundtripOutboxSlow")


def _misses(facts: Facts) -> Iterator[Finding]:
    for group in grouped(facts.waiting):
        yield _MISSES.get(group.reason, _nobody_there)(group)


def _key_mismatch(group: MissGroup) -> Finding:
    there = _list(group.connected) or "another bot"
    text = (
        f"{events(group.waiting)} found nobody: key mismatch. {_id(group.user_id)} is connected as {there}, "
        f"events go to {_id(group.looked_for)}."
    )
    return Finding("critical", "key_mismatch", text, event_page(group.event_id), "RoundtripKeyMismatch")


def _ack_timeout(group: MissGroup) -> Finding:
    told = f"{events(group.waiting, 'was', 'were')} written to {_name(group)} and never confirmed"
    if group.receipt or group.promised:
        text = f"{told}: the page promised to acknowledge, and its application does not."
        return Finding("warning", "acks_missing", text, event_page(group.event_id), "RoundtripAcksMissing")
    text = f"{told}: neither a receipt of the transport nor an acknowledgement came back."
    return Finding("warning", "receipts_missing", text, event_page(group.event_id), "RoundtripReceiptsMissing")


def _send_failed(group: MissGroup) -> Finding:
    text = (
        f"{events(group.waiting)} could not be written: the socket that {_name(group)} is mapped to is gone. "
        "A stale mapping, or a connection that broke."
    )
    return Finding("warning", "send_failed", text, event_page(group.event_id), "RoundtripMissedEmits")


def _queue_full(group: MissGroup) -> Finding:
    text = f"{events(group.waiting)} found a socket of {_name(group)} that reads too slowly; it was closed."
    return Finding("warning", "queue_full", text, event_page(group.event_id), "RoundtripMissedEmits")


def _just_disconnected(group: MissGroup) -> Finding:
    text = f"{events(group.waiting, 'came', 'came')} seconds after the last socket of {_name(group)} had left."
    return Finding("warning", "just_disconnected", text, event_page(group.event_id), "RoundtripMissedEmits")


def _nobody_there(group: MissGroup) -> Finding:
    """Nobody came yet, or they left: an ordinary day, unless somebody waits for a code."""
    if PAIRING_TYPES.intersection(group.types):
        wait = events(group.waiting, "waits", "wait")
        text = f"Somebody links {_name(group)}, and no page of this key is connected: {wait}."
        return Finding("warning", group.reason, text, event_page(group.event_id), "RoundtripMissedEmits")
    wait = events(group.waiting, "waits", "wait")
    text = f"{wait} for {_name(group)}, whose page is not connected; what waits is sent when it comes."
    return Finding("info", group.reason, text, event_page(group.event_id))


_MISSES: Final[dict[str, Callable[[MissGroup], Finding]]] = {
    "key_mismatch": _key_mismatch,
    "ack_timeout": _ack_timeout,
    "send_failed": _send_failed,
    "queue_full": _queue_full,
    "just_disconnected": _just_disconnected,
}


def _sockets(facts: Facts) -> Iterator[Finding]:
    s = facts.situation
    early = above(alerts.early_ratio(s, RECENT, 3), ALERTS["RoundtripSocketChurn"].limits[0])
    if early is not None:
        text = f"Sockets leave right after they connected: {early:.0%} of the last ones within 5 s."
        yield Finding("warning", "socket_churn", text, "/console/sockets", "RoundtripSocketChurn")
    if len(s.history) > 1 and alerts.unmapped(s) > 0 and s.history.increase("accepted", RECENT) == 0:
        text = f"{alerts.unmapped(s):.0f} connected sockets are not in the socket map: every event for them misses."
        yield Finding("critical", "unmapped_sockets", text, "/console/sockets", "RoundtripUnmappedSockets")


def _links(facts: Facts) -> Iterator[Finding]:
    h = facts.situation.history
    if h.increase("flaps", RECENT) > 0 and at_least(h.increase("flaps", WINDOW), 3) is not None:
        if facts.flapping:
            link = facts.flapping[0]
            who, target = (
                f"The link of {link.user_id} · {link.bot_id}",
                f"/console/links/{quote(link.link_id, safe='')}",
            )
        else:
            who, target = "A link", "/console/links"
        text = f"{who} loses its connection to WhatsApp and has it back, again and again."
        yield Finding("warning", "link_flapping", text, target, "RoundtripLinkFlapping")
    if (outdated := h.now("links_client_outdated")) > 0:
        text = f"WhatsApp refuses this version of the library for {outdated:.0f} links: update the backend."
        yield Finding("critical", "client_outdated", text, "/console/links", "RoundtripClientOutdated")
    if h.now("links_crashing") > 0:
        text = f"The workers of {h.now('links_crashing'):.0f} links die again and again."
        yield Finding("warning", "worker_crashes", text, "/console/links", "RoundtripWorkerCrashes")


def _process(facts: Facts) -> Iterator[Finding]:
    s, h = facts.situation, facts.situation.history
    for check, detail in facts.not_ready:
        if check != "outbox":
            yield Finding("warning", f"not_ready_{check}", f"Not ready: {detail}", "/console/health")
    lag = above(h.quantile("loop_lag", 0.99, RECENT), ALERTS["RoundtripEventLoopBlocked"].limits[0])
    if lag is not None:
        text = f"Something blocks the event loop: timers run up to {lag:.2g} s late."
        yield Finding("warning", "loop_blocked", text, "/console/health", "RoundtripEventLoopBlocked")
    if at_least(h.now("canary_failing"), ALERTS["RoundtripCanaryFailing"].limits[0]) is not None:
        text = "The backend's own event, sent through its public address, does not come back: pages may get none."
        yield Finding("critical", "canary_failing", text, "/console/health", "RoundtripCanaryFailing")
    if h.increase("task_failures", 6 * RECENT) > 0:
        text = "A background task died; the log says why."
        yield Finding("warning", "task_died", text, "/console/health", "RoundtripTaskDied")
    if h.increase("dropped", 6 * RECENT) > 0:
        text = "Spans or log records were lost on their way to the collector."
        yield Finding("info", "telemetry_dropped", text, "/console/health", "RoundtripTelemetryDropped")
    for fault in s.faults:
        text = f"The fault {fault} is switched on: what you see is an exercise."
        yield Finding("info", f"fault_{fault}", text, "/console/faults", "RoundtripFaultActive")


def _unknown_waiting(facts: Facts) -> Iterator[Finding]:
    """Events that wait and of whose misses nothing is known here: from before a restart."""
    h = facts.situation.history
    if not facts.waiting and alerts.pending_age(facts.situation) > 60 and h.now("pending") > 0:
        wait, age = events(h.now("pending"), "waits", "wait"), _age(alerts.pending_age(facts.situation))
        text = f"{wait} for pages that are not connected, the oldest for {age}."
        yield Finding("info", "pending", text, "/console/misses")


def _all_well(facts: Facts) -> Finding:
    h = facts.situation.history
    reached = h.increase("acked", WINDOW) + h.increase("received", WINDOW)
    replaced = h.increase("superseded", WINDOW)
    expired = h.increase("expired", WINDOW)
    if expired:
        text = f"{events(expired)} of the last 15 minutes expired before anybody came for them."
        return Finding("warning", "expired", text, "/console/misses")
    if not reached and not replaced:
        return Finding("ok", "quiet", "No events in the last 15 minutes; everything is ready.", "/console/health")
    if replaced:
        text = (
            f"{events(reached)} of the last 15 minutes reached a page; {replaced:.0f} were replaced by newer ones "
            "before anybody came."
        )
    elif reached == 1:
        text = "The one event of the last 15 minutes reached a page."
    else:
        text = f"All {reached:.0f} events of the last 15 minutes reached a page."
    return Finding("ok", "all_reached", text, "/console/misses")


_RULES: Final[tuple[Callable[[Facts], Iterator[Finding]], ...]] = (
    _outbox,
    _misses,
    _sockets,
    _links,
    _process,
    _unknown_waiting,
)


def _name(group: MissGroup) -> str:
    return f"{_id(group.user_id)} · {_id(group.looked_for or group.bot_id)}"


def _id(text: str) -> str:
    """An id within a sentence: isolated, or one that is written from right to left would turn the rest around."""
    return text if text.isascii() else f"\u2068{text}\u2069"


def _list(parts: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(map(_id, parts[:most]))
    return shown if len(parts) <= most else f"{shown} and {len(parts) - most} more"


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
