"""What the program does not load unless it needs it: memory of each process, and time of each start."""

from __future__ import annotations

import subprocess
import sys

UNNEEDED = ("requests", "urllib3", "asyncpg", "google.protobuf", "opentelemetry.exporter.otlp.proto.common", "neonize")
"""Clients and exporters, which are loaded where an endpoint, a database or an account is there."""


def test_the_program_loads_nothing_that_it_may_not_need() -> None:
    code = "import roundtrip.app, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert [name for name in UNNEEDED if name in loaded.stdout.split()] == []


def test_a_library_that_was_hidden_while_another_loaded_is_there_afterwards() -> None:
    code = "import roundtrip.sockets, requests, engineio; print(requests.__version__, engineio.AsyncServer.__name__)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_a_worker_loads_no_part_of_the_program_that_it_does_not_need() -> None:
    """Each account that pairs has a process of its own, and each 32 accounts one more."""
    code = "import roundtrip.drivers.neonize.host, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    unneeded = ("structlog", "rich", "pydantic", "aiohttp", "prometheus_client", "opentelemetry", "sqlite3")
    assert [name for name in unneeded if name in loaded.stdout.split()] == []
