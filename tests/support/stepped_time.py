"""The module `time` as a stepped clock has it, for code that cannot be given a clock: python-engineio's heartbeat."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from roundtrip.clock import Clock


class _Time:
    """Wall and monotonic time of a clock; all else is the real module's."""

    def __init__(self, clock: Clock) -> None:
        self.time = clock.wall
        self.time_ns = clock.wall_ns
        self.monotonic = clock.monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def stepped_time(clock: Clock, *packages: str) -> Iterator[None]:
    """Within it, modules of these packages that say `time.time()` get the clock's."""
    stand_in = _Time(clock)
    patched = [
        module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in packages and getattr(module, "time", None) is time
    ]
    for module in patched:
        vars(module)["time"] = stand_in
    try:
        yield
    finally:
        for module in patched:
            vars(module)["time"] = time
