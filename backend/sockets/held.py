"""Which numbers a client was sent, as ranges: a day of events in a few bytes."""

from __future__ import annotations

from array import array
from bisect import bisect_right


class Held:
    """A set of integers that mostly grows by one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")
        """Behind the last number of each range."""

    def add(self, number: int) -> None:
        ends = self._ends
        if ends and ends[-1] == number:
            ends[-1] = number + 1
        elif not ends or number > ends[-1]:
            self._starts.append(number)
            ends.append(number + 1)
        elif number not in self:  # out of order: rare, and a range of its own is as true as a merged one
            at = bisect_right(self._starts, number)
            self._starts.insert(at, number)
            ends.insert(at, number + 1)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._starts)
