"""What the program knows by name, for tests that compare documents, pages and dashboards with it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from roundtrip.drivers.simulated import SimulateAction
from roundtrip.events import PUBLIC_TYPES
from roundtrip.label_sets import label_sets
from roundtrip.links.record import LinkState
from roundtrip.settings import PREFIX, Settings
from roundtrip.sockets.messages import REFUSALS
from roundtrip.telemetry.metrics import Metrics


def link_states() -> set[str]:
    return {state.value for state in LinkState}


def phone_actions() -> set[str]:
    """What the simulated phone can be told."""
    return {action.value for action in SimulateAction}


def event_types() -> set[str]:
    """As they are on the wire."""
    return {type_.wire for type_ in PUBLIC_TYPES}


def refusals() -> set[str]:
    """Codes of a socket that is not let in."""
    return set(REFUSALS)


def setting_names() -> set[str]:
    """Of the environment."""
    return {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


def metrics() -> CollectorRegistry:
    """Every metric, each with its labels."""
    made = Metrics(label_sets(), "0")
    made.http_request("GET", "/healthz", "2xx", 0.001)  # routes have their series with their first request
    return made.registry
