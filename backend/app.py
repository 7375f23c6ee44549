"""The program: which parts there are, the order in which they start, and how they stop."""

from __future__ import annotations

import gc


class StartError(Exception):
    """The program cannot start; the message is one line for the person who started it."""


def tune_collector() -> None:
    """Leave what was made at start out of garbage collection, and collect rarely: it is half of the cost of an event."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


async def serve(settings: object) -> None:
    raise NotImplementedError
