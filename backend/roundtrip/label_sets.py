"""The values that labels of metrics may have, gathered from the parts that own them: telemetry knows no part."""

from __future__ import annotations

from roundtrip.events import PUBLIC_TYPES
from roundtrip.links.record import LinkState
from roundtrip.links.transition_table import TABLE
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.telemetry.labels import LabelSets


def label_sets() -> LabelSets:
    """The label values of metrics, from the enums that own them; where those have numbers, a value's place is it."""
    return LabelSets(
        event_types=tuple(type_.wire for type_ in PUBLIC_TYPES),
        outcomes=tuple(outcome.wire for outcome in Outcome if outcome is not Outcome.PENDING),
        miss_reasons=tuple(MissReason),
        link_states=tuple(LinkState),
        transitions=tuple(sorted({(move.to, move.reason) for move in TABLE.values() if move.reason is not None})),
    )
