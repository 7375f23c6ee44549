"""Trace contexts as W3C `traceparent` text, made cheaply, and the head sampler's word on them.

Source: https://www.w3.org/TR/trace-context/ and the OpenTelemetry SDK's samplers, whose decisions these are.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

_SHAPE: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LOW_64: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15


class TraceContext(NamedTuple):
    """A span's identity: 128 and 64 bits, and whether the head sampler chose its trace."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"

    def derived(self, number: int) -> int:
        """The id of a span that belongs to this one: the same in every life of the process. `number` from 1."""
        return (self.span_id ^ (number * _GOLDEN & _LOW_64)) or 1


def parse(traceparent: str) -> TraceContext | None:
    """Read a traceparent from anywhere; None if it is not one."""
    match = _SHAPE.fullmatch(traceparent)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    context = TraceContext(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & 1))
    return context if context.trace_id and context.span_id else None


class HeadSampler(NamedTuple):
    """What `OTEL_TRACES_SAMPLER` says, as numbers. A trace id below `bound` (its low 64 bits) is sampled."""

    bound: int
    parent_decides: bool
    rate: float = 1.0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> HeadSampler:
        """The SDK's names and defaults: an unknown sampler is `parentbased_always_on`, a wrong ratio is 1."""
        name = environ.get(OTEL_TRACES_SAMPLER, "").strip().lower()
        base = name.removeprefix("parentbased_")
        if base not in {"always_on", "always_off", "traceidratio"}:
            return cls(TraceIdRatioBased(1.0).bound, parent_decides=True)
        rate = {"always_on": 1.0, "always_off": 0.0}.get(base)
        if rate is None:
            try:
                rate = float(environ.get(OTEL_TRACES_SAMPLER_ARG, ""))
            except ValueError:
                rate = 1.0
            rate = rate if 0.0 <= rate <= 1.0 else 1.0
        return cls(TraceIdRatioBased(rate).bound, parent_decides=base != name, rate=rate)

    def of_sdk(self) -> Sampler:
        """The SDK's sampler that decides alike."""
        root = TraceIdRatioBased(self.rate)
        return ParentBased(root) if self.parent_decides else root

    def samples(self, trace_id: int) -> bool:
        return trace_id & _LOW_64 < self.bound


NEVER: Final = HeadSampler(0, parent_decides=False, rate=0.0)
"""The sampler of a process that exports nothing."""


class Contexts:
    """Makes the contexts of new spans."""

    def __init__(self, sampler: HeadSampler, bits: Callable[[int], int] = random.getrandbits) -> None:
        """`bits(n)` gives n random bits; a test gives the same ones every time."""
        self.sampler = sampler
        self.bits = bits

    def new(self, parent: str | None = None) -> str:
        """The traceparent of a new span: child of `parent`, or the root of a trace of its own."""
        bits = self.bits
        if parent is not None and len(parent) >= 55:
            trace = parent[3:35]
            sampled = parent[54] in "13579bdf" if self.sampler.parent_decides else self.sampler.samples(int(trace, 16))
            return f"00-{trace}-{bits(64) or 1:016x}-{'01' if sampled else '00'}"
        both = f"{bits(192):048x}"
        flag = "01" if int(both[16:32], 16) < self.sampler.bound else "00"
        return f"00-{both[:32]}-{both[32:]}-{flag}"


class ContextIds(IdGenerator):
    """The same source of ids for the SDK's own spans."""

    def __init__(self, contexts: Contexts) -> None:
        self._bits = contexts.bits

    def generate_span_id(self) -> int:
        return self._bits(64) or 1

    def generate_trace_id(self) -> int:
        return self._bits(128) or 1


OTHER: Final = "other"
"""Where a value lands that its set does not know: counted, never a new series."""

MODES: Final = ("live", "replay")
GRADES: Final = ("received", "acked")
"""The transport's receipt and the application's acknowledgement: two grades, never mixed."""

SIGNALS: Final = ("traces", "logs")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Label values that the program's other parts own, as their public names.

    `event_types` and `outcomes` stand in the order of their enum's numbers, so that a number is an index;
    `outcomes` are the ends of an event, without `pending` (number 0).
    """

    event_types: tuple[str, ...]
    outcomes: tuple[str, ...]
    miss_reasons: tuple[str, ...]
    link_states: tuple[str, ...]
    transitions: Iterable[tuple[str, str]] = ()
    """Pairs of state and reason that are known to occur; they start at 0, others appear when they happen."""
    transition_reasons: frozenset[str] = field(default_factory=frozenset)
    """Every reason that a transition may carry. Those of `transitions` need not be repeated."""
    transports: tuple[str, ...] = ("websocket", "polling")
    connect_results: tuple[str, ...] = (
        "accepted",
        "bot_id_missing",
        "bot_id_invalid",
        "user_id_invalid",
        "too_many_sockets",
        "unauthorized",
        "forbidden",
        "rate_limited",
        "unavailable",
    )
    disconnect_reasons: tuple[str, ...] = (
        "client disconnect",
        "server disconnect",
        "transport close",
        "transport error",
        "ping timeout",
        "queue_full",
        "token_expired",
        "draining",
    )
    packet_refusals: tuple[str, ...] = (
        "malformed",
        "packet_type",
        "namespace",
        "second_connect",
        "second_request",
        "not_joined",
        "slow_request",
        "attachments",
        "ack",
        "unasked",
        "jsonp",
    )
    faults: tuple[str, ...] = (
        "key_mismatch",
        "stale_cleanup",
        "drop_acks",
        "drop_receipts",
        "early_disconnect",
        "slow_outbox",
        "outbox_down",
        "whatsapp_flap",
    )
    worker_exits: tuple[str, ...] = ("stopped", "exited", "crashed", "killed", "unresponsive")
    limits: tuple[str, ...] = (
        "handshakes_per_address",
        "handshakes_per_user",
        "connections",
        "connections_per_address",
        "connections_per_user",
        "events_per_socket",
        "packet_size",
        "body_size",
        "json_depth",
        "slow_request",
        "links_per_user",
        "pairings_per_hour",
        "descriptors",
    )
    ready_checks: tuple[str, ...] = ("outbox", "links", "restore", "draining")
    malformed: tuple[str, ...] = ("malformed", "line_too_long", "header_too_long", "head_too_large", "http_version")
