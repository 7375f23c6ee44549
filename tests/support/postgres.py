"""A real PostgreSQL for tests: one server per session in a temporary folder on loopback, one database per test.

The server is Debian's own, started as an ordinary user (`initdb` and `postgres` refuse root) and ended by its process
id. Its disk writes are not flushed: no test cuts the power, and a test that kills the server keeps what the kernel has.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tests.support.ports import free_port

PACKAGE: Final = "apt-get install postgresql"
START: Final = 30.0
"""Seconds that a server may take to answer."""


def binaries() -> Path:
    """The folder of the newest installed server. Without one the test is skipped; in CI it fails."""
    found = sorted(
        (path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()),
        key=lambda path: int(path.parent.name),
    )
    on_path = shutil.which("initdb")
    if found:
        return found[-1]
    if on_path is not None:
        return Path(on_path).parent
    reason = f"PostgreSQL's server (initdb, postgres) is missing; get it with: {PACKAGE}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def ordinary_user() -> dict[str, Any]:
    """The arguments of `subprocess.Popen` that make the child an ordinary user."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Postgres:
    """A running server. `url` is of its own database `postgres`; `databases` makes others."""

    def __init__(self, folder: Path, bin_: Path, *, fsync: bool = False) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._bin = bin_
        self.port = free_port()
        self._flags = [] if fsync else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self.process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._shared = ""

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str, port: int | None = None) -> str:
        return f"postgresql://roundtrip@127.0.0.1:{port or self.port}/{database}"

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's own programs to its end."""
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            check=False,
            capture_output=True,
            cwd=self.folder,
            text=True,
            timeout=START,
            **ordinary_user(),
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def create(self) -> None:
        locale = ("-E", "UTF8", "--locale=C.UTF-8")
        self.run("initdb", "-D", str(self.data), "-U", "roundtrip", "-A", "trust", "--no-sync", *locale)

    def follow(self, primary: Postgres) -> None:
        """Become a streaming replica of a running server; `start` it then."""
        place = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "roundtrip", "-D", str(self.data))
        self.run("pg_basebackup", *place, "-R", "-X", "stream", "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Make a replica the primary, and wait until it is."""
        self.run("pg_ctl", "promote", "-D", str(self.data), "-t", str(int(START)))

    def start(self) -> None:
        """Start and wait until it answers."""
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "max_connections=200")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(self._bin / "postgres"),
                    *("-D", str(self.data), "-p", str(self.port)),
                    *(part for setting in settings for part in ("-c", setting)),
                    *self._flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **ordinary_user(),
            )
        self.query("SELECT 1")

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """End the server by its process id: SIGQUIT at once and without a checkpoint, SIGINT cleanly."""
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(START)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(START)
            self.process = None

    def query(self, sql: str, database: str = "postgres") -> Any:
        """One value, from a loop of its own; waits for a server that is starting."""

        async def ask() -> Any:
            async with asyncio.timeout(START):
                while True:
                    try:
                        connection = await asyncpg.connect(self.url_of(database))
                        break
                    except (OSError, asyncpg.CannotConnectNowError):
                        if self.process is None or self.process.poll() is not None:
                            raise
                        await asyncio.sleep(0.02)
            try:
                return await connection.fetchval(sql)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # the caller may have a loop of its own
            return thread.submit(lambda: asyncio.run(ask())).result()

    def new_database(self) -> str:
        """The name of a new, empty database."""
        self._made += 1
        name = f"test_{self._made}"
        self.query(f"CREATE DATABASE {name}")
        return name

    def empty_database(self) -> str:
        """The name of the session's one database, emptied: creating one costs a checkpoint each time."""
        if not self._shared:
            self._shared = self.new_database()
        self.query(
            f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{self._shared}'"  # noqa: S608  # a name of ours
        )
        self.query("DROP SCHEMA public CASCADE", self._shared)
        self.query("CREATE SCHEMA public", self._shared)
        return self._shared

    def drop_database(self, name: str) -> None:
        self.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def server(*, fsync: bool = False) -> Iterator[Postgres]:
    """A server of one's own, ended and deleted in the end."""
    bin_ = binaries()
    folder = Path(tempfile.mkdtemp(prefix="roundtrip-pg-"))
    try:
        owner = ordinary_user()
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        postgres = Postgres(folder, bin_, fsync=fsync)
        postgres.create()
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def standby(primary: Postgres) -> Iterator[Postgres]:
    """A streaming replica; what the primary confirms from now on is on both."""
    folder = Path(tempfile.mkdtemp(prefix="roundtrip-pg-"))
    try:
        owner = ordinary_user()
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        replica = Postgres(folder, binaries())
        replica.follow(primary)
        replica.start()
        primary.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.query("SELECT pg_reload_conf()")
        try:
            yield replica
        finally:
            replica.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def value(url: str, sql: str, *arguments: Any) -> Any:
    """One value of a database, over a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()
