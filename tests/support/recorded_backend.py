"""The whole program with the simulated driver, which notes when each session comes online and when it goes:

    python -m tests.support.recorded_backend FILE

One JSON object a line: `link`, `online`, and `at` by the machine's steady clock, which all its processes share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from roundtrip import cli
from roundtrip.drivers.simulated.phone import PhoneState, SimulatedSession


class Noted:
    """The attribute `_state` of sessions: each change between online and not is written before it holds."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def __get__(self, session: Any, _owner: object = None) -> PhoneState:
        state: PhoneState = session.__dict__["_state"]
        return state

    def __set__(self, session: Any, state: PhoneState) -> None:
        online = state is PhoneState.ONLINE
        if online != (session.__dict__.get("_state") is PhoneState.ONLINE):
            note = {"link": session._spec.link_id, "online": online, "at": time.monotonic_ns()}
            os.write(self._file, json.dumps(note).encode() + b"\n")
        session.__dict__["_state"] = state


def main() -> int:
    """Exit status: the program's own."""
    SimulatedSession._state = Noted(sys.argv[1])  # type: ignore[assignment]  # stands for the attribute
    return cli.main([])


if __name__ == "__main__":
    sys.exit(main())
