"""`make cluster`: one PostgreSQL, three nodes and a proxy, a page that names its node, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.postgres import binaries
from tests.support.program import ROOT, Api
from tests.support.py_client import py_client
from tools import cluster, local_postgres

COMMAND = (sys.executable, "-m", "tools.cluster")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where PostgreSQL's own user may go, when root runs the tests: pytest's folders are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="roundtrip-make-cluster-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Behind:
    """What is called by its address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.admin_url = ""


async def line_with(stream: asyncio.StreamReader, *words: str) -> str:
    async with asyncio.timeout(60):
        while line := (await stream.readline()).decode():
            if all(word in line for word in words):
                return line
    raise AssertionError(f"it ended without saying {words}")


@pytest.mark.slow
@pytest.mark.waits(20)
@pytest.mark.timeout(180)
async def test_three_nodes_serve_one_page_and_all_of_it_ends(folder: Path) -> None:
    """A node that is killed is started again, and its account goes on at another one without a scan."""
    binaries()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--port", "0", "--data", folder / "data", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    pids: dict[str, int] = {}
    try:
        page = await line_with(process.stdout, "Page")
        pids["proxy"] = int(page.rpartition("process ")[2].rstrip(")\n"))
        url = re.findall(r"http://\S+", page)[0]
        for number in cluster.NODES:
            line = await line_with(process.stdout, f"node-{number}")
            pids[f"node-{number}"] = int(line.rpartition("process ")[2])
        pids["postgres"] = int((await line_with(process.stdout, "PostgreSQL")).rpartition("process ")[2])
        async with aiohttp.ClientSession() as session, py_client(url) as client:
            user = Api(Behind(url), session, "user")
            _, config = await user.call("GET", "/api/config")
            assert config["sharedStore"] is True
            node = (await client.io.call("node", timeout=5))["node"]
            assert node in pids
            await user.link()
            await user.state("qr")
            await user.simulate("scan")
            connected = await user.state("connected")
            os.kill(pids[node], signal.SIGKILL)
            again = await line_with(process.stdout, f"{node} is process")
            pids[node] = int(again.split()[3])
            after = await user.state("connected", within=40)
            assert after["linkId"] == connected["linkId"]
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert [name for name, pid in pids.items() if _runs(pid)] == []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_postgresql_it_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local_postgres, "find_binaries", lambda: None)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        assert cluster.main(["--port", "0", "--data", str(folder)]) == 127
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert capsys.readouterr().err == f"make cluster: {local_postgres.HOW}\n"


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port), "--data", folder], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"make cluster: port {port} of 127.0.0.1: Address already in use")
