"""`make cluster`: three nodes with a simulated phone on one PostgreSQL behind one address, on loopback, without
containers. Ctrl-C ends everything that it started.

PostgreSQL, HAProxy and nginx are the machine's own. Without a proxy there are the three nodes' addresses; without
PostgreSQL there is nothing. A node that ends, for example by `kill -9`, is started again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

from tools.local_postgres import LocalPostgres, PostgresError, may_enter

ROOT: Final = Path(__file__).resolve().parents[1]
PROXIES: Final = ROOT / "deploy" / "proxy"
NODES: Final = (1, 2, 3)
PORT: Final = 8080
ADMIN_PORT: Final = 9464
START: Final = 30.0
"""Seconds in which a node must be ready."""
STOP: Final = 35.0
"""Seconds in which a node must have handed its links over and ended."""
AGAIN: Final = 2.0
"""Seconds until a node that ended is started again."""


class ClusterError(Exception):
    """In a sentence for a person."""


class Ports:
    """`public` is the proxy's; the nodes follow. 0 picks free ones."""

    def __init__(self, public: int) -> None:
        chosen = [public + offset if public else 0 for offset in (0, *NODES)]
        chosen += [ADMIN_PORT + offset if public else 0 for offset in range(len(NODES))]
        chosen.append(public + 9 if public else 0)
        with ExitStack() as held:  # all at once, so that no two are the same
            taken = [held.enter_context(_bound(port)) for port in chosen]
            numbers = [int(one.getsockname()[1]) for one in taken]
        self.public, *rest = numbers
        self.nodes = dict(zip(NODES, rest, strict=False))
        self.admin = dict(zip(NODES, rest[len(NODES) :], strict=False))
        self.postgres = rest[-1]


def _bound(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("127.0.0.1", port))
    except OSError as error:
        one.close()
        raise ClusterError(
            f"port {port} of 127.0.0.1: {error.strerror}; choose others with --port, 0: free ones"
        ) from None
    return one


class Node:
    """One backend. Its log is in the data folder."""

    def __init__(self, number: int, ports: Ports, data: Path, store: str) -> None:
        self.name = f"node-{number}"
        self.url = f"http://127.0.0.1:{ports.nodes[number]}"
        self.admin_url = f"http://127.0.0.1:{ports.admin[number]}"
        self.log = data / f"{self.name}.log"
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT / "backend"),
            "ROUNDTRIP_STORE": store,
            "ROUNDTRIP_NODE_ID": self.name,
            "ROUNDTRIP_PORT": str(ports.nodes[number]),
            "ROUNDTRIP_ADMIN_PORT": str(ports.admin[number]),
            "ROUNDTRIP_DATA_DIR": str(data / self.name),
            "ROUNDTRIP_FORWARDED_ALLOW_IPS": "127.0.0.1",
            "ROUNDTRIP_LEASE": os.environ.get("ROUNDTRIP_LEASE", "5"),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_at = 0.0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # this program
                [sys.executable, "-m", "backend", "demo"],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal reaches them through this program
            )

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.admin_url}/readyz", timeout=2) as answer:  # noqa: S310  # ours
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_ready(self) -> None:
        """Raises `ClusterError` with the last line of its log."""
        deadline = time.monotonic() + START
        while not self.ready:
            if (self.process is not None and self.process.poll() is not None) or time.monotonic() > deadline:
                lines = self.log.read_text(errors="replace").strip().splitlines()
                raise ClusterError(f"{self.name} does not start: {lines[-1] if lines else 'it says nothing'}")
            time.sleep(0.05)

    def watch(self) -> str | None:
        """Start it again some time after it ended; a line when something happened."""
        if self.process is None or self.process.poll() is None:
            return None
        if not self.ended_at:
            self.ended_at = time.monotonic()
            return f"{self.name} ended with {self.process.returncode}; it is started again in {AGAIN:g} s"
        if time.monotonic() - self.ended_at < AGAIN:
            return None
        self.ended_at = 0.0
        self.start()
        return f"{self.name} is process {self.process.pid} now"


def start_proxy(folder: Path, ports: Ports) -> tuple[str, subprocess.Popen[bytes]] | None:
    """HAProxy, else nginx, else None; its name and process."""
    values = {"BIND": f"127.0.0.1:{ports.public}", "FOLDER": str(folder)}
    values |= {f"NODE_{number}": f"127.0.0.1:{port}" for number, port in ports.nodes.items()}
    values |= {f"READY_{number}": str(port) for number, port in ports.admin.items()}
    if haproxy := _find("haproxy"):
        command = [haproxy, "-db", "-f", str(PROXIES / "haproxy.cfg")]
    elif nginx := _find("nginx"):
        template = string.Template((PROXIES / "nginx.conf").read_text())
        (folder / "nginx.conf").write_text(template.safe_substitute(values))
        command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    else:
        return None
    with (folder / "proxy.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # found above, fixed arguments
            command,
            env=os.environ | values,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Path(command[0]).name, process


def _find(program: str) -> str | None:
    """On the PATH, or where Debian puts what only root needs as a rule."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def end(process: subprocess.Popen[bytes], within: float = STOP) -> None:
    """End a process by its id, cleanly if it can be."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(data: Path, public: int) -> None:
    """Start everything, watch it until a signal, end everything. Raises `ClusterError` and `PostgresError`."""
    ports = Ports(public)
    data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        database = data / "postgres"
        if not may_enter(database):
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roundtrip-cluster-")))
            temporary.chmod(0o711)
            database = temporary / "postgres"
            say(f"PostgreSQL's user cannot enter {data}: its files are in {temporary}, until the end.")
        postgres = LocalPostgres(database, ports.postgres)
        stack.callback(postgres.stop)
        postgres.start()
        nodes = [Node(number, ports, data, postgres.url) for number in NODES]
        stack.callback(_end_nodes, nodes)
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_until_ready()
        proxy = start_proxy(data, ports)
        if proxy is not None:
            stack.callback(end, proxy[1])
            _wait_for(ports.public, proxy[1])
        _tell(nodes, postgres, proxy, ports)
        while True:
            time.sleep(0.25)
            for node in nodes:
                if (news := node.watch()) is not None:
                    say(news)


def _end_nodes(nodes: list[Node]) -> None:
    """All at once: each gives its links to those that stay, and there will be none."""
    running = [node.process for node in nodes if node.process is not None and node.process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        end(process)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ClusterError("the proxy does not start; its log is proxy.log")
        time.sleep(0.05)


def _tell(
    nodes: list[Node], postgres: LocalPostgres, proxy: tuple[str, subprocess.Popen[bytes]] | None, ports: Ports
) -> None:
    if proxy is None:
        say("Neither haproxy nor nginx is here (apt-get install haproxy): open the nodes by themselves.")
    else:
        say(f"Page       http://127.0.0.1:{ports.public}   all nodes, by {proxy[0]} (process {proxy[1].pid})")
    for node in nodes:
        pid = 0 if node.process is None else node.process.pid
        say(f"{node.name}     {node.url}   console {node.admin_url}   process {pid}")
    say(f"PostgreSQL {postgres.folder}   port {postgres.port}, process {postgres.process and postgres.process.pid}")
    say('Open the page, press "Link WhatsApp", then kill -9 the process of the node that the page names.')
    say("Ctrl-C ends all of it.")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 after Ctrl-C, 1 when something does not start, 127 when PostgreSQL is missing."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "cluster", help="folder of what is kept")
    parser.add_argument("--port", type=int, default=PORT, help="of the page; nodes have the next ones; 0: free ports")
    options = parser.parse_args(arguments)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # once is enough: the end must not be broken off
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        run(options.data.resolve(), options.port)
    except KeyboardInterrupt:
        say("ended")
        return 0
    except (ClusterError, PostgresError) as error:
        sys.stderr.write(f"make cluster: {error}\n")
        return 127 if "is missing" in str(error) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
