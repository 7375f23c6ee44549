"""A PostgreSQL of one's own from the machine's binaries: in a folder, on loopback, ended by its process id.

`initdb` and `postgres` refuse to run as root, so that root starts them as the user `postgres`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final

HOW: Final = "PostgreSQL's server (initdb, postgres) is missing; get it with: apt-get install postgresql"
USER: Final = "postgres"
START: Final = 30.0
"""Seconds that a server may take to answer, and to end."""


class PostgresError(Exception):
    """In a sentence for a person."""


def find_binaries() -> Path | None:
    """The folder of the newest server that is installed, where Debian keeps them or on the PATH."""
    found = sorted(
        (path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()),
        key=lambda path: int(path.parent.name),
    )
    if found:
        return found[-1]
    on_path = shutil.which("initdb")
    return None if on_path is None else Path(on_path).resolve().parent


def ordinary_user() -> dict[str, Any]:
    """The arguments of `subprocess` that make a child an ordinary user. Raises `PostgresError`."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        raise PostgresError(f"there is no user {USER}, and PostgreSQL does not run as root") from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def may_enter(folder: Path) -> bool:
    """Whether an ordinary user reaches this folder, when root asks."""
    return os.geteuid() != 0 or all(path.stat().st_mode & 0o001 for path in folder.resolve().parents)


class LocalPostgres:
    """`folder` keeps the data from one start to the next."""

    def __init__(self, folder: Path, port: int) -> None:
        binaries = find_binaries()
        if binaries is None:
            raise PostgresError(HOW)
        self._binaries = binaries
        self._owner = ordinary_user()
        self.folder = folder.resolve()
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://roundtrip:{self._password()}@127.0.0.1:{self.port}/postgres"

    def _password(self) -> str:
        return (self.folder / "password").read_text().strip()

    def start(self) -> None:
        """Make the cluster where there is none, start the server, and wait until it answers. Raises
        `PostgresError`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if not (self.folder / "data" / "PG_VERSION").exists():
            self._create()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  # the server's own binary
                [
                    str(self._binaries / "postgres"),
                    *("-D", str(self.folder / "data"), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C at the terminal is not meant for it: the nodes end first
                **self._owner,
            )
        deadline = time.monotonic() + START
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL does not start; its log: {self.folder / 'log'}")
            time.sleep(0.05)

    def _create(self) -> None:
        password = self.folder / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_hex(16))
        if self._owner:
            for path in (self.folder, password):
                os.chown(path, self._owner["user"], self._owner["group"])
        who = ("-U", "roundtrip", "-A", "scram-sha-256", "--pwfile", str(password))
        made = self._run("initdb", "-D", str(self.folder / "data"), *who, "-E", "UTF8", "--locale=C.UTF-8")
        if made.returncode:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            raise PostgresError(f"initdb: {made.stderr.strip().splitlines()[-1]}")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603  # the server's own binaries
            [str(self._binaries / program), *arguments],
            check=False,
            capture_output=True,
            cwd=self.folder,
            text=True,
            **self._owner,
        )

    def stop(self) -> None:
        """End it cleanly: connections are closed at once."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(START)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
