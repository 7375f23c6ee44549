"""The span of an event in the page that handled it: `process {type}`, of a service of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.service_attributes import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from roundtrip.telemetry.span_records import Processed
from roundtrip.telemetry.tracing import TraceContext

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_OF_THIS_PROCESS: Final = ("host.", "process.", "telemetry.")


class PageSpanBuilder:
    """`resource` is this program's; the pages' is made from it."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = page_resource(resource)
        self._scope = scope

    def span(
        self,
        record: Processed,
        create: TraceContext,
        type_: str,
        common: Mapping[str, str | int | bool | tuple[str, ...]],
    ) -> ReadableSpan:
        """A child of the event's `create`, whose context the page was sent. `common` is what all spans of the event
        have; it comes after what the page says, and cannot be replaced by it."""
        error = record.error
        return ReadableSpan(
            name=f"process {type_}",
            context=SpanContext(create.trace_id, record.span_id, is_remote=False, trace_flags=_SAMPLED),
            parent=SpanContext(create.trace_id, create.span_id, is_remote=True, trace_flags=_SAMPLED),
            resource=self._resource,
            attributes={
                **record.attributes,
                messaging.MESSAGING_OPERATION_NAME: "process",
                messaging.MESSAGING_OPERATION_TYPE: messaging.MessagingOperationTypeValues.PROCESS.value,
                **common,
                **({} if error is None else {ERROR_TYPE: error}),
            },
            kind=SpanKind.CONSUMER,
            status=Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error),
            start_time=record.started_ns,
            end_time=record.ended_ns,
            instrumentation_scope=self._scope,
        )


def page_resource(own: Resource) -> Resource:
    """The service of the pages, named after this program's: `roundtrip-page`. This process's own attributes, and its
    version, are not a page's; what the environment says of the deployment is."""
    kept = {
        name: value
        for name, value in own.attributes.items()
        if name not in {SERVICE_INSTANCE_ID, SERVICE_VERSION} and not name.startswith(_OF_THIS_PROCESS)
    }
    return Resource({**kept, SERVICE_NAME: f"{own.attributes.get(SERVICE_NAME, 'unknown_service')!s}-page"})
