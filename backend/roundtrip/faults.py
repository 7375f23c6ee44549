"""Named failure switches, for development only: each breaks one thing, and names what should then be observed.

A part reads a plain attribute of `Faults` where it is affected; a part that must act when a switch changes subscribes.

To add a fault, touch:

- here: its row in `FAULTS` and its attribute of `Faults`;
- the part that it breaks: a read of the attribute, or a subscriber that `app.py` connects;
- `telemetry/context.py`: its name among the label values of `fault_active`;
- `dashboards/`: the panel and the alert that show it, then `python -m dashboards`;
- `docs/operations.md`: its row; `tests/stack/test_faults_proof.py`: the proof that panel, alert and trace show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog

from roundtrip.errors import RoundtripError

log = structlog.get_logger(__name__)


class FaultError(RoundtripError):
    """A switch that cannot be changed: `fault_unknown`, `fault_parameter_invalid`, `faults_forbidden`."""


class Fault(msgspec.Struct, frozen=True):
    """One switch. `unit` is that of its parameter, None without one. A parameter is 0 to `maximum`, else `default`."""

    name: str
    description: str
    expect: str
    unit: str | None = None
    default: float = 0.0
    maximum: float = 0.0


FAULTS: Final = (
    Fault(
        "key_mismatch",
        "The emitter looks for sockets under the user's id as the bot's id.",
        "missed_emits_total{reason=key_mismatch} rises; /debug/sockets shows the key looked for and the one there.",
    ),
    Fault(
        "stale_cleanup",
        "A socket's disconnect removes the newest mapping of its key, not its own.",
        "After a reload, events miss with just_disconnected while the browser believes that it is connected.",
    ),
    Fault(
        "drop_acks",
        "Acknowledgements of frontends are thrown away.",
        "Frontends with acks are tried again and again: missed_emits_total{reason=ack_timeout}; others stay received.",
    ),
    Fault(
        "drop_receipts",
        "Transport receipts are thrown away.",
        "Frontends that never acknowledge leave their events pending: oldest_pending_event_age_seconds grows.",
    ),
    Fault(
        "early_disconnect",
        "The backend closes each new socket shortly after it connected.",
        "socket_lifetime_seconds collapses, socket_disconnects_total{reason=server disconnect} rises, events miss with "
        "just_disconnected.",
        unit="milliseconds",
        default=200.0,
        maximum=600_000.0,
    ),
    Fault(
        "slow_outbox",
        "Each commit of the outbox waits.",
        "outbox_write_seconds and delivery_seconds move up together, nothing is lost.",
        unit="seconds",
        default=0.5,
        maximum=60.0,
    ),
    Fault(
        "outbox_down",
        "The outbox refuses to write.",
        "/readyz turns 503, new links are refused with outbox_unavailable, nothing is emitted.",
    ),
    Fault(
        "whatsapp_flap",
        "Connected links lose their connection to WhatsApp and have it back, over and over.",
        "link_transitions_total between connected and disconnected rises, links{state} wavers.",
        unit="seconds",
        default=5.0,
        maximum=3_600.0,
    ),
    Fault(
        "host_death",
        "The worker process with the most accounts dies, again and again; its accounts are back a moment later.",
        "worker_exits_total{cause=killed} and link_flaps_total rise, workers wavers; no account needs a person.",
        unit="seconds",
        default=20.0,
        maximum=3_600.0,
    ),
)
"""Every switch, in the order in which they are documented."""

_BY_NAME: Final = {fault.name: fault for fault in FAULTS}


class FaultView(msgspec.Struct, frozen=True, rename="camel"):
    """A switch as the API returns it. `parameter` is None while it is off or where there is none."""

    name: str
    active: bool
    parameter: float | None
    unit: str | None
    description: str
    expect: str


class FaultList(msgspec.Struct, frozen=True):
    faults: tuple[FaultView, ...]


class Faults:
    """The switches of one process. `allowed` is False in production: then none can be changed.

    There is an attribute per fault: True or the parameter while it is on, False or None while it is off.
    """

    def __init__(self, *, allowed: bool) -> None:
        self.allowed = allowed
        self.key_mismatch = False
        self.stale_cleanup = False
        self.drop_acks = False
        self.drop_receipts = False
        self.outbox_down = False
        self.early_disconnect: float | None = None
        """Milliseconds."""
        self.slow_outbox: float | None = None
        """Seconds."""
        self.whatsapp_flap: float | None = None
        """Seconds."""
        self.host_death: float | None = None
        """Seconds."""
        self._observers: list[Callable[[str, bool], None]] = []

    def active(self, name: str) -> bool:
        """Whether a switch is on. Raises `FaultError` for an unknown name."""
        value = getattr(self, _fault(name).name)
        return value is not None and value is not False

    def parameter(self, name: str) -> float | None:
        """A switch's parameter; None while it is off, or where there is none."""
        value = getattr(self, _fault(name).name)
        return None if isinstance(value, bool) else value

    def subscribe(self, observer: Callable[[str, bool], None]) -> None:
        """Call `observer(name, active)` whenever a switch changes, and now for each that is on."""
        self._observers.append(observer)
        for fault in FAULTS:
            if self.active(fault.name):
                observer(fault.name, True)

    def switch_on(self, name: str, parameter: float | None = None) -> FaultView:
        """Switch on, or change the parameter of one that is on. Raises `FaultError`."""
        fault = _fault(name)
        self._check_allowed()
        without_parameter = fault.unit is None and parameter is None
        setattr(self, name, True if without_parameter else _parameter(fault, parameter))
        self._notify(name)
        return self.view(name)

    def switch_off(self, name: str) -> FaultView:
        """Switch off; harmless when it is off. Raises `FaultError`."""
        fault = _fault(name)
        self._check_allowed()
        setattr(self, name, False if fault.unit is None else None)
        self._notify(name)
        return self.view(name)

    def apply(self, specs: Iterable[str]) -> None:
        """Switch on what the settings list: `drop_acks`, or `slow_outbox=2` with a parameter. Raises `FaultError`."""
        for name, parameter in map(parse, specs):
            self.switch_on(name, parameter)

    def view(self, name: str) -> FaultView:
        fault = _fault(name)
        active = self.active(name)
        return FaultView(name, active, self.parameter(name), fault.unit, fault.description, fault.expect)

    def views(self) -> FaultList:
        return FaultList(tuple(self.view(fault.name) for fault in FAULTS))

    def _check_allowed(self) -> None:
        if not self.allowed:
            raise FaultError("faults_forbidden", "Faults are for development; this backend does not allow them.")

    def _notify(self, name: str) -> None:
        active = self.active(name)
        log.warning("fault_switched", fault=name, active=active, parameter=self.parameter(name))
        for observer in self._observers:
            observer(name, active)


def parse(spec: str) -> tuple[str, float | None]:
    """Parse `name` or `name=parameter`. Raises `FaultError`."""
    name, equals, text = spec.partition("=")
    fault = _fault(name.strip())
    if not equals:
        return fault.name, None
    try:
        return fault.name, _parameter(fault, float(text))
    except ValueError:
        raise FaultError("fault_parameter_invalid", f"The parameter of {fault.name} must be a number.") from None


def _fault(name: str) -> Fault:
    fault = _BY_NAME.get(name)
    if fault is None:
        raise FaultError("fault_unknown", f"There is no such fault. There are: {', '.join(_BY_NAME)}.")
    return fault


def _parameter(fault: Fault, given: float | None) -> float:
    if fault.unit is None:
        raise FaultError("fault_parameter_invalid", f"{fault.name} takes no parameter.")
    value = fault.default if given is None else given
    if not math.isfinite(value) or not 0 <= value <= fault.maximum:
        raise FaultError("fault_parameter_invalid", f"{fault.name} takes 0 to {fault.maximum:g} {fault.unit}.")
    return value
