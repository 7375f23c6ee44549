"""A real PgBouncer in front of a test's PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port
from tests.support.postgres import Postgres, ordinary_user
from tests.support.programs import require


@contextmanager
def pgbouncer(postgres: Postgres, mode: str, **settings: str) -> Iterator[int]:
    """Run one with a `pool_mode`; its port. Ended by its process id."""
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin"  # where Debian has it
    program = require("pgbouncer", "apt-get install pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="roundtrip-pgbouncer-"))
    port = free_port()
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": str(folder / "users"),
        "pool_mode": mode,
        "default_pool_size": "5",
        **settings,
    }
    text = "\n".join(f"{name} = {text}" for name, text in lines.items())
    (folder / "users").write_text('"roundtrip" ""\n')
    (folder / "ini").write_text(f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\n{text}\n")
    owner = ordinary_user()
    if owner:
        for path in (folder, folder / "users", folder / "ini"):
            os.chown(path, owner["user"], owner["group"])
    process = subprocess.Popen(
        [program, str(folder / "ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **owner
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "pgbouncer ended"
                assert time.monotonic() < deadline, "pgbouncer does not answer"
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
