"""The machine that has all rules."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize

from tests.model.openings import OPENINGS, Rules


class PathMachine(Rules):
    """Everything that can happen to the path of an event."""


class SearchMachine(PathMachine):
    """It goes on from where an opening leads, or from nothing."""

    @initialize(name=st.sampled_from(["", *OPENINGS]))
    def open_with(self, name: str) -> None:
        if name:
            OPENINGS[name](self)
