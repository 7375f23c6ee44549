"""A clock that tests set, and rules that are reached at once."""

from __future__ import annotations

from roundtrip.limits.rates import Rate, Rules


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rules(**changes: object) -> Rules:
    settings: dict[str, object] = {
        "handshakes_per_address": Rate(1, 2),
        "handshakes_per_user": Rate(1, 2),
        "pairings_per_hour": 2.0,
        "sockets_per_user": 2,
        "events_per_socket": Rate(1, 2),
        **changes,
    }
    return Rules(**settings)  # type: ignore[arg-type]  # a test's shorthand
