"""Which alerts hold at present, and since when."""

from __future__ import annotations

import msgspec

from roundtrip.api.debug.alerts import RULES, Situation


class ActiveAlert(msgspec.Struct, frozen=True, rename="camel"):
    """An alert whose condition holds. `since` is in seconds since the epoch; it fires once its time is over."""

    name: str
    severity: str
    summary: str
    value: float
    since: float
    firing: bool


class Alerts:
    """Which alerts hold, and since when."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, situation: Situation) -> tuple[ActiveAlert, ...]:
        """To be called with each reading: the alerts whose condition holds, by severity."""
        at = situation.history.at
        active = []
        for rule in RULES:
            alert = rule.alert
            value = rule.value(situation, alert)
            if value is None:
                self._since.pop(rule.name, None)
                continue
            since = self._since.setdefault(rule.name, at)
            firing = at - since >= alert.for_
            active.append(ActiveAlert(rule.name, alert.severity, alert.summary, round(value, 4), since, firing))
        return tuple(sorted(active, key=lambda alert: ("critical", "warning", "info").index(alert.severity)))
