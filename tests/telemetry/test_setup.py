"""The start of telemetry: nothing is built without an endpoint, and a loop that is held up is measured."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from prometheus_client import CollectorRegistry, Histogram

from roundtrip.telemetry.setup import LoopLag, configure_tracing, has_endpoint, instance_id, resource
from tests.support.py_client import eventually
from tests.telemetry.helpers import KEY, Drops, acked


async def test_a_stall_is_seen() -> None:
    registry = CollectorRegistry()
    lag = LoopLag(Histogram("lag", "Lag.", buckets=(0.05, 1), registry=registry), every=0.01)
    lag.start()
    await eventually(lambda: (registry.get_sample_value("lag_count") or 0) >= 3)
    time.sleep(0.1)  # noqa: ASYNC251  # what must not be done, to be seen
    await eventually(lambda: (registry.get_sample_value("lag_sum") or 0) > 0.08)
    assert (registry.get_sample_value("lag_bucket", {"le": "0.05"}) or 0) >= 1
    lag.stop()
    count = registry.get_sample_value("lag_count")
    await asyncio.sleep(0.03)
    assert registry.get_sample_value("lag_count") == count


class TestInstance:
    """Environment, then the setting, then one of its own."""

    def test_the_environment_comes_first(self) -> None:
        named = {"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.instance.id=one%20two, service.version=9"}
        assert instance_id("node", named) == "one two"
        attributes = resource("1", instance_id("node", named), named).attributes
        assert (attributes["service.instance.id"], attributes["service.version"], attributes["a"]) == (
            "one two",
            "9",
            "b",
        )
        assert attributes["service.name"] == "roundtrip"

    def test_then_the_setting(self) -> None:
        assert instance_id("node", {"OTEL_RESOURCE_ATTRIBUTES": "nonsense"}) == "node"

    def test_then_one_that_no_other_process_has(self) -> None:
        assert instance_id(None, {}) != instance_id(None, {})

    def test_a_name_of_the_service(self) -> None:
        environ = {"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}
        assert resource("1", "i", environ).attributes["service.name"] == "mine"
        del environ["OTEL_SERVICE_NAME"]
        assert resource("1", "i", environ).attributes["service.name"] == "other"


class TestWithoutAnEndpoint:
    def test_nothing_is_built(self) -> None:
        threads = threading.active_count()
        traces = configure_tracing("1", Drops(), {})
        event_spans = traces.event_spans
        context = event_spans.context(None)
        event_spans.settled(acked(context))
        assert traces._pipeline is None
        assert event_spans.exemplar(context, True) is None
        assert event_spans.replay(KEY, "sid", None) is None
        assert context.endswith("-00"), "downstream must not take this trace for a sampled one"
        assert threading.active_count() == threads
        traces.close()

    def test_a_request_still_joins_what_belongs_together(self) -> None:
        tracer = configure_tracing("1", Drops(), {}).tracer
        with tracer.span("PUT /x", f"00-{7:032x}-{8:016x}-01") as step:
            step.set("roundtrip.link.id", "link")
            assert step.traceparent.startswith(f"00-{7:032x}-")
        with tracer.span("PUT /x", "not a context") as step:
            assert len(step.traceparent) == 55

    def test_the_exporter_is_not_even_loaded(self) -> None:
        code = (
            "import sys; from roundtrip.telemetry.setup import configure_tracing; configure_tracing('1', print, {});"
            "sys.exit(any('otlp' in name or name == 'requests' for name in sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    @pytest.mark.parametrize(
        ("environ", "wanted"),
        [
            ({}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
            ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
            ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://x"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ],
    )
    def test_what_counts_as_one(self, environ: dict[str, str], wanted: bool) -> None:
        assert has_endpoint("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", environ) is wanted
