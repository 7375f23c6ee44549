"""Which session brings its worker down: after each death that nothing explains, its sessions go on in smaller groups.

Pure: no process, no clock. Groups shrink so fast that the third death leaves each suspect alone in a worker. Who dies
alone is guilty, and is given up when it does so again and again; the others lose three short gaps at the most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

ALONE_AFTER: Final = 3
"""Deaths after which a suspect runs alone."""
ALONE_LIMIT: Final = 3
"""Deaths of a worker that has one session only, within `MEMORY`, until that session is given up."""
MEMORY: Final = 600.0
"""Seconds without a death after which a suspect is none any more."""


class Verdict(NamedTuple):
    """`groups` are to run apart, each in a worker that takes no other session; `guilty` is not to run any more.
    `delay`, in seconds, is for the one that dies alone."""

    groups: tuple[tuple[str, ...], ...] = ()
    guilty: str | None = None
    delay: float = 0.0


@dataclass(slots=True)
class _Suspicion:
    deaths: int
    factor: int
    """Into so many groups its group is split."""
    alone: int
    """Deaths with no other session in the worker."""
    last: float


class Suspects:
    """Sessions are named by their link's id; times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspicion] = {}

    def after_death(self, members: Sequence[str], now: float) -> Verdict:
        """A worker with these sessions died, and nothing explains it."""
        self._forget(now)
        known = [found for name in members if (found := self._suspects.get(name)) is not None]
        deaths = max((found.deaths for found in known), default=0) + 1
        factor = max((found.factor for found in known), default=max(2, math.ceil(len(members) ** (1 / ALONE_AFTER))))
        alone = {name: self._suspects[name].alone if name in self._suspects else 0 for name in members}
        for name in members:
            self._suspects[name] = _Suspicion(deaths, factor, alone[name] + (len(members) == 1), now)
        if len(members) == 1:
            (name,) = members
            times = self._suspects[name].alone
            return (
                Verdict(guilty=name)
                if times >= ALONE_LIMIT
                else Verdict(((name,),), delay=2.0 ** (times - 2) if times > 1 else 0.0)
            )
        size = 1 if deaths >= ALONE_AFTER else math.ceil(len(members) / factor)
        return Verdict(tuple(tuple(members[at : at + size]) for at in range(0, len(members), size)))

    def alone(self, name: str, now: float) -> bool:
        """Whether a session that starts anew must have a worker of its own."""
        self._forget(now)
        found = self._suspects.get(name)
        return found is not None and (found.deaths >= ALONE_AFTER or found.alone > 0)

    def _forget(self, now: float) -> None:
        self._suspects = {name: found for name, found in self._suspects.items() if now - found.last < MEMORY}
