"""The stack's receiver: alerts as lines, and a word when the watchdog stops coming."""

from __future__ import annotations

from typing import Any

from dashboards.alert_sink import SILENCE, WATCHDOG, Watch, lines


def message(*names: str) -> dict[str, Any]:
    return {
        "alerts": [
            {
                "status": "firing",
                "labels": {"alertname": name, "severity": "critical"},
                "annotations": {"description": "It burns.", "runbook_url": f"http://grafana/d/{name}"},
            }
            for name in names
        ]
    }


def test_an_alert_is_a_line_and_the_watchdog_is_none() -> None:
    assert lines(message("RoundtripKeyMismatch", WATCHDOG)) == [
        "FIRING   critical RoundtripKeyMismatch: It burns. http://grafana/d/RoundtripKeyMismatch"
    ]


def test_a_watchdog_that_stops_is_told_once_and_so_is_its_return() -> None:
    now = [1000.0]
    watch = Watch(lambda: now[0])
    now[0] += SILENCE - 1
    assert watch.look() == []
    assert watch.came(message("RoundtripKeyMismatch")) == []
    now[0] += 1
    assert len(watch.look()) == 1, "another alert is no watchdog"
    assert watch.look() == []
    assert len(watch.came(message(WATCHDOG))) == 1
    assert watch.came(message(WATCHDOG)) == []
    now[0] += SILENCE - 1
    assert watch.look() == []
