"""Contexts and the head sampler: the same text and the same decisions as the SDK's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from roundtrip.telemetry.tracing import NEVER, Contexts, HeadSampler, TraceContext, TraceStates, parse

ids = st.integers(1, (1 << 128) - 1)
span_ids = st.integers(1, (1 << 64) - 1)
samplers = st.sampled_from(["", "nonsense", "always_on", "always_off", "traceidratio", "parentbased_always_on"]) | (
    st.sampled_from(["parentbased_always_off", "parentbased_traceidratio"])
)
rates = st.floats(0, 1).map(str) | st.sampled_from(["", "x", "2", "-1"])


class TestTraceparent:
    @given(ids, span_ids, st.booleans())
    def test_what_is_written_can_be_read(self, trace_id: int, span_id: int, sampled: bool) -> None:
        context = TraceContext(trace_id, span_id, sampled)
        assert parse(str(context)) == context

    @given(st.text(max_size=60) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{30,34}-[0-9a-f]{14,18}-[0-9a-f]{2}(-x)?"))
    def test_it_reads_what_the_sdk_reads(self, text: str) -> None:
        context = TraceContextTextMapPropagator().extract({"traceparent": text})
        theirs = trace.get_current_span(context).get_span_context()
        ours = parse(text)
        if ours is not None:
            assert (theirs.trace_id, theirs.span_id, theirs.trace_flags.sampled) == ours

    @pytest.mark.parametrize(
        "text", ["", "00-0-0-00", f"00-{0:032x}-{1:016x}-01", f"00-{1:032x}-{0:016x}-01", f"ff-{1:032x}-{1:016x}-01"]
    )
    def test_what_is_no_context_is_none(self, text: str) -> None:
        assert parse(text) is None

    @given(span_ids)
    def test_derived_ids_differ_and_stay(self, span_id: int) -> None:
        context = TraceContext(1, span_id, True)
        made = [context.derived(number) for number in range(1, 100)]
        assert len({span_id, *made}) == 100
        assert made == [context.derived(number) for number in range(1, 100)]


class TestSampler:
    @given(samplers, rates, ids, st.none() | st.booleans())
    def test_it_decides_as_the_sdk_does(self, name: str, rate: str, trace_id: int, parent: bool | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("OTEL_TRACES_SAMPLER", raising=False)
            if name:
                patch.setenv("OTEL_TRACES_SAMPLER", name)
            patch.setenv("OTEL_TRACES_SAMPLER_ARG", rate)
            theirs = sampling._get_from_env_or_default()
            ours = HeadSampler.from_environment({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": rate})
        above = None
        text = None
        if parent is not None:
            flags = TraceFlags(int(parent))
            above = trace.set_span_in_context(NonRecordingSpan(SpanContext(trace_id, 1, True, flags)))
            text = str(TraceContext(trace_id, 1, parent))
        contexts = Contexts(ours, lambda count: (trace_id << 64 | 1) & (1 << count) - 1)
        sampled = _decision(theirs, above, trace_id)
        assert contexts.new(text)[-2:] == ("01" if sampled else "00")

    def test_who_exports_nothing_samples_nothing(self) -> None:
        contexts = Contexts(NEVER)
        assert contexts.new()[-2:] == contexts.new(f"00-{1:032x}-{1:016x}-01")[-2:] == "00"


def _decision(sampler: sampling.Sampler, above: Context | None, trace_id: int) -> bool:
    return sampler.should_sample(above, trace_id, "span").decision is sampling.Decision.RECORD_AND_SAMPLE


class TestContexts:
    def test_a_child_is_in_its_parents_trace(self) -> None:
        contexts = Contexts(HeadSampler.from_environment({}))
        parent = contexts.new()
        child = contexts.new(parent)
        assert child[:36] == parent[:36]
        assert child != parent

    def test_roots_differ(self) -> None:
        contexts = Contexts(HeadSampler.from_environment({}))
        made = {contexts.new() for _ in range(1000)}
        assert len(made) == 1000
        assert all(parse(context) for context in made)


def test_states_are_kept_of_the_newest_traces_only() -> None:
    states = TraceStates(limit=2)
    for trace_id in (1, 2, 1, 3):
        states.keep(trace_id, TraceState([("vendor", str(trace_id))]))
    assert [states.of(trace_id) is not None for trace_id in (1, 2, 3)] == [True, False, True]
    context = SpanContext(3, 5, is_remote=False, trace_flags=TraceFlags(1))
    assert dict(states.added_to(context).trace_state) == {"vendor": "3"}
    assert states.added_to(context)[:4] == context[:4]
    other = SpanContext(2, 5, is_remote=False)
    assert states.added_to(other) is other
