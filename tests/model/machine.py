"""The machine that has all rules."""

from __future__ import annotations

from tests.model.answers import Answers
from tests.model.clients import Clients


class PathMachine(Clients, Answers):
    """Everything that can happen to the path of an event."""
