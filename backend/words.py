"""Label values of metrics, from the enums that own them."""

from __future__ import annotations

from backend.delivery.outcome import MissReason, Outcome
from backend.events import EventType
from backend.links.machine import Reason
from backend.links.snapshot import LinkState
from backend.telemetry.vocabulary import Vocabulary


def vocabulary() -> Vocabulary:
    """The fixed sets; where an enum has numbers, a value's place is its number."""
    return Vocabulary(
        event_types=tuple(type_.wire for type_ in EventType),
        outcomes=tuple(outcome.wire for outcome in Outcome if outcome is not Outcome.PENDING),
        miss_reasons=tuple(MissReason),
        link_states=tuple(LinkState),
        transition_reasons=frozenset(Reason),
    )
