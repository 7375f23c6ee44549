"""The catalogue: names, label sets, exemplars, and a number of series that no user can raise."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from roundtrip.events import Connected, EventType
from roundtrip.identity import BotKey
from roundtrip.links.transition_table import TABLE
from roundtrip.outbox.records import MissReason, Mode, Outcome
from roundtrip.telemetry.collectors import LedgerReading
from roundtrip.telemetry.metrics import Metrics
from tests.support.programs import require
from tests.support.traces import LABEL_SETS, scenes

SERIES = 1145
"""What one process may expose, whoever uses it: the catalogue's labels multiplied, with a little room."""

CONTRACT = {
    "sockets": ("gauge", {"transport"}),
    "mapped_keys": ("gauge", set()),
    "socket_connects": ("counter", {"result"}),
    "socket_disconnects": ("counter", {"reason"}),
    "socket_lifetime_seconds": ("histogram", {"le"}),
    "events_created": ("counter", {"type"}),
    "events_resolved": ("counter", {"type", "outcome"}),
    "events_pending": ("gauge", {"type"}),
    "oldest_pending_event_age_seconds": ("gauge", set()),
    "emit_attempts": ("counter", {"type", "mode", "result"}),
    "missed_emits": ("counter", {"type", "reason"}),
    "delivery_seconds": ("histogram", {"mode", "grade", "le"}),
    "receipt_seconds": ("histogram", {"le"}),
    "ack_seconds": ("histogram", {"le"}),
    "outbox_write_seconds": ("histogram", {"le"}),
    "links": ("gauge", {"state"}),
    "link_transitions": ("counter", {"to", "reason"}),
    "link_pairing_seconds": ("histogram", {"le"}),
    "link_restarts": ("counter", set()),
    "event_loop_lag_seconds": ("histogram", {"le"}),
    "telemetry_dropped": ("counter", {"signal"}),
    "spans_exported": ("counter", set()),
    "fault_active": ("gauge", {"fault"}),
    "build": ("info", {"version", "python", "service_instance_id"}),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(LABEL_SETS, "1.2.3")


def openmetrics(metrics: Metrics) -> list[Metric]:
    text: bytes = as_openmetrics(metrics.registry)  # type: ignore[no-untyped-call]  # published without types
    return list(parse_openmetrics(text.decode()))  # type: ignore[no-untyped-call]  # the same


class TestCatalogue:
    def test_it_has_every_metric_of_the_contract(self, metrics: Metrics) -> None:
        found = {
            family.name: (family.type, {label for sample in family.samples for label in sample.labels})
            for family in openmetrics(metrics)
        }
        for name, expected in CONTRACT.items():
            assert found[f"roundtrip_{name}"] == expected, name

    def test_every_metric_says_what_it_is(self, metrics: Metrics) -> None:
        for family in parse_text(generate_latest(metrics.registry).decode()):
            if family.name.startswith("roundtrip_"):
                assert family.documentation.endswith("."), family.name

    def test_promtool_finds_no_fault(self, metrics: Metrics) -> None:
        promtool = require("promtool", "apt-get install --no-install-recommends prometheus")
        text = generate_latest(metrics.registry)
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def test_a_value_outside_its_set_makes_no_series(self, metrics: Metrics) -> None:
        before = series(metrics)
        for number in range(100):
            metrics.socket_connects[f"made up {number}"].inc()
            metrics.rate_limited[f"made up {number}"].inc()
        assert series(metrics) == before
        assert 'socket_connects_total{result="other"} 100.0' in generate_latest(metrics.registry).decode()
        for number in range(100):
            metrics.transition(f"state {number}", f"reason {number}")
        assert series(metrics) == before
        assert 'link_transitions_total{reason="other",to="other"} 100.0' in generate_latest(metrics.registry).decode()

    def test_every_transition_that_the_table_knows_is_counted_from_zero(self, metrics: Metrics) -> None:
        """A series that appears with its first increment has none for `increase()` and for an exact count."""
        before = series(metrics)
        for move in TABLE.values():
            if move.reason is not None:
                metrics.transition(move.to, move.reason)
        assert series(metrics) == before
        (family,) = (one for one in openmetrics(metrics) if one.name == "roundtrip_link_transitions")
        assert all(sample.value for sample in family.samples if sample.labels["to"] != "other")
        assert [sample.value for sample in family.samples if sample.labels["to"] == "other"] == [0.0]

    def test_created_series_are_left_out(self, metrics: Metrics) -> None:
        assert b"_created" not in generate_latest(metrics.registry).replace(b"events_created_total", b"")


class TestLedger:
    def test_it_balances_in_every_scrape(self, metrics: Metrics) -> None:
        metrics.ledger.read = lambda: LedgerReading(
            {EventType.QR: 9, EventType.CONNECTED: 2},
            {(EventType.QR, Outcome.SUPERSEDED): 5, (EventType.QR, Outcome.ACKED): 3, (EventType.CONNECTED, 2): 2},
            {EventType.QR: 1},
            None,
            4096,
        )
        totals: dict[str, float] = {}
        for family in parse_text(generate_latest(metrics.registry).decode()):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0) + sample.value
        assert totals["roundtrip_events_created_total"] == 11
        assert totals["roundtrip_events_resolved_total"] + totals["roundtrip_events_pending"] == 11
        assert totals["roundtrip_outbox_size_bytes"] == 4096

    def test_the_age_of_the_oldest_is_in_seconds_and_never_negative(self, metrics: Metrics) -> None:
        metrics.ledger._clock = lambda: 1000.0
        for at, age in ((990_000, 10.0), (1_010_000, 0.0), (None, 0.0)):
            metrics.ledger.read = lambda at=at: LedgerReading({}, {}, {}, at, 0)  # type: ignore[misc]  # bound now
            assert f"oldest_pending_event_age_seconds {age}" in generate_latest(metrics.registry).decode()


class TestExemplars:
    def test_they_name_the_trace(self, metrics: Metrics) -> None:
        trace = {"trace_id": "ab" * 16}
        metrics.missed_emits[MissReason.KEY_MISMATCH][EventType.QR].inc(exemplar=trace)
        metrics.delivery["live"]["acked"].observe(0.003, trace)
        metrics.delivery["live"]["acked"].observe(0.3, None)
        found = [
            (sample.name, sample.exemplar.labels, sample.exemplar.value)
            for family in openmetrics(metrics)
            for sample in family.samples
            if sample.exemplar
        ]
        assert found == [
            ("roundtrip_missed_emits_total", trace, 1.0),
            ("roundtrip_delivery_seconds_bucket", trace, 0.003),
        ]


def series(metrics: Metrics) -> int:
    return sum(
        len(family.samples)
        for family in parse_text(generate_latest(metrics.registry).decode())
        if family.name.startswith("roundtrip_")
    )


@pytest.fixture
def users() -> list[BotKey]:
    return [BotKey(f"user-{number}", f"bot-{number}") for number in range(500)]


async def test_five_hundred_users_stay_within_the_budget(users: list[BotKey]) -> None:
    with scenes() as new_scene:
        s = new_scene()
        before = series(s.metrics)
        for number, key in enumerate(users):
            peer = await s.connect(key, f"sid-{number}") if number % 2 else None
            await s.courier.publish(key, f"link-{number}", Connected(f"+1555{number:07}", f"name {number}", True))
            s.ack(peer or await s.connect(key, f"sid-{number}"), 1, number)
        text = generate_latest(s.metrics.registry).decode()
        assert f'emit_attempts_total{{mode="{Mode.LIVE}",result="sent",type="whatsapp_connected"}} 250.0' in text
        assert 'missed_emits_total{reason="never_connected",type="whatsapp_connected"} 250.0' in text
        assert series(s.metrics) == before <= SERIES
        for private in ("user-", "bot-", "sid-", "link-", "+1555", "name "):
            assert private not in "".join(line for line in text.splitlines() if line[0] != "#")
        await s.spans()
