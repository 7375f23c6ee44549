"""Commands whose environment is not the test's: measured all the same where coverage is."""

from __future__ import annotations

import os
from collections.abc import Sequence

_CONFIG = "COVERAGE_PROCESS_CONFIG"


def measured(command: Sequence[str]) -> tuple[str, ...]:
    """The command, with coverage's settings put back into the environment that its starter gives it. `env` becomes
    the command, so the process id is the same."""
    config = os.environ.get(_CONFIG)
    return (*(() if config is None else ("/usr/bin/env", f"{_CONFIG}={config}")), *command)
