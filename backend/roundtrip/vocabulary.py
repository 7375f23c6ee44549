"""Label values of metrics, from the enums that own them."""

from __future__ import annotations

from roundtrip.events import EventType
from roundtrip.links.machine import Reason
from roundtrip.links.snapshot import LinkState
from roundtrip.outbox.records import MissReason, Outcome
from roundtrip.telemetry.context import Vocabulary


def vocabulary() -> Vocabulary:
    """The fixed sets; where an enum has numbers, a value's place is its number."""
    return Vocabulary(
        event_types=tuple(type_.wire for type_ in EventType),
        outcomes=tuple(outcome.wire for outcome in Outcome if outcome is not Outcome.PENDING),
        miss_reasons=tuple(MissReason),
        link_states=tuple(LinkState),
        transition_reasons=frozenset(Reason),
    )
