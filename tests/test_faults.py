from __future__ import annotations

import pytest

from roundtrip.api.problems import STATUS
from roundtrip.faults import FAULTS, FaultError, Faults
from roundtrip.telemetry.labels import LabelSets

NAMES = [fault.name for fault in FAULTS]


def test_the_names_are_the_metrics_names() -> None:
    assert tuple(NAMES) == LabelSets((), (), (), ()).faults


@pytest.mark.parametrize("name", NAMES)
def test_on_and_off(name: str) -> None:
    faults = Faults(allowed=True)
    assert not faults.active(name)
    view = faults.switch_on(name)
    assert view.active
    assert faults.active(name)
    assert view.parameter == faults.parameter(name)
    assert (view.parameter is None) == (view.unit is None)
    assert [fault for fault in NAMES if faults.active(fault)] == [name]
    assert not faults.switch_off(name).active
    assert faults.parameter(name) is None


def test_a_parameter_of_zero_is_on() -> None:
    faults = Faults(allowed=True)
    faults.switch_on("early_disconnect", 0.0)
    assert faults.active("early_disconnect")
    assert faults.early_disconnect == 0.0


@pytest.mark.parametrize("parameter", [-1.0, float("nan"), float("inf"), 61.0])
def test_a_parameter_out_of_range_changes_nothing(parameter: float) -> None:
    faults = Faults(allowed=True)
    with pytest.raises(FaultError) as caught:
        faults.switch_on("slow_outbox", parameter)
    assert caught.value.code == "fault_parameter_invalid"
    assert not faults.active("slow_outbox")


def test_none_is_switched_where_faults_are_not_allowed() -> None:
    faults = Faults(allowed=False)
    for move in (faults.switch_on, faults.switch_off):
        with pytest.raises(FaultError) as caught:
            move("drop_acks")
        assert (caught.value.code, STATUS[caught.value.code]) == ("faults_forbidden", 403)
    assert not faults.drop_acks


def test_observers_are_called_for_active_faults_and_for_every_change() -> None:
    calls: list[tuple[str, bool]] = []
    faults = Faults(allowed=True)
    faults.switch_on("drop_acks")
    faults.subscribe(lambda name, active: calls.append((name, active)))
    faults.switch_on("slow_outbox", 2)
    faults.switch_off("drop_acks")
    assert calls == [("drop_acks", True), ("slow_outbox", True), ("drop_acks", False)]


def test_the_settings_text() -> None:
    faults = Faults(allowed=True)
    faults.apply(("drop_acks", "slow_outbox=2.5", "early_disconnect"))
    assert (faults.drop_acks, faults.slow_outbox, faults.early_disconnect) == (True, 2.5, 200.0)
    for wrong in ("nothing", "slow_outbox=", "slow_outbox=x", "drop_acks=1", ""):
        with pytest.raises(FaultError):
            faults.apply((wrong,))
