"""Each handshake, disconnect and breach of the protocol moves its counter."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry

from roundtrip.label_sets import label_sets
from roundtrip.sockets.messages import SocketCounters
from roundtrip.telemetry.metrics import Metrics


def test_each_refusal_and_each_disconnect_moves_its_counter() -> None:
    made = Metrics(label_sets(), "0")
    meter = SocketCounters(made)
    for code in (
        "accepted",
        "bot_id_missing",
        "bot_id_invalid",
        "user_id_invalid",
        "too_many_sockets",
        "unauthorized",
        "forbidden",
        "rate_limited",
        "unavailable",
    ):
        meter.connected(code)
        assert value(made.registry, "roundtrip_socket_connects_total", result=code) == 1.0
    for reason in (
        "transport close",
        "transport error",
        "ping timeout",
        "draining",
        "queue_full",
        "protocol_error",
    ):
        meter.disconnected(reason, 2.5)
        assert value(made.registry, "roundtrip_socket_disconnects_total", reason=reason) == 1.0
    assert value(made.registry, "roundtrip_socket_lifetime_seconds_count") == 6.0
    assert value(made.registry, "roundtrip_socket_lifetime_seconds_sum") == 15.0
    for what in ("attachments", "malformed", "namespace", "ack", "second_connect", "not_joined", "unasked", "jsonp"):
        meter.packet_refused(what)
        assert value(made.registry, "roundtrip_packets_refused_total", what=what) == 1.0
    before = failures(made.registry)
    meter.step_failed()
    assert failures(made.registry) == before + 1


def value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name and sample.labels.items() >= labels.items()
    ]
    return found[0] if found else math.nan


def failures(registry: CollectorRegistry) -> float:
    return value(registry, "roundtrip_task_failures_total")
