"""A real HAProxy or nginx in front of the nodes of a cluster, with the configurations of deploy/proxy."""

from __future__ import annotations

import asyncio
import os
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.support.cluster import Node
from tests.support.ports import free_port
from tests.support.program import ROOT
from tests.support.programs import answering, require

CONFIGURATIONS: Final = ROOT / "deploy" / "proxy"
STICKY: Final = {
    "haproxy": ("use_backend sticky if", "# use_backend sticky if"),
    "nginx": ("{ default sticky;", "{ default nodes;"),
}
"""What makes clients that poll come back to their node, and what is left without it."""


@asynccontextmanager
async def proxy(kind: str, folder: Path, nodes: list[Node], *, sticky: bool = True) -> AsyncIterator[str]:
    """The address of a proxy of this kind, `haproxy` or `nginx`, over three nodes."""
    program = require(kind, f"apt-get install {'nginx-light' if kind == 'nginx' else kind}")
    port = free_port()
    values = {"BIND": f"127.0.0.1:{port}", "FOLDER": str(folder)}
    for number, node in enumerate(nodes, start=1):
        values |= {f"NODE_{number}": f"127.0.0.1:{node.port}", f"READY_{number}": str(node.admin_port)}
    text = (CONFIGURATIONS / ("haproxy.cfg" if kind == "haproxy" else "nginx.conf")).read_text()
    if not sticky:
        assert STICKY[kind][0] in text
        text = text.replace(*STICKY[kind]).replace("balance leastconn", "balance roundrobin")
        text = text.replace("        least_conn;\n", "")
    path = folder / f"{kind}.conf"
    path.write_text(text if kind == "haproxy" else string.Template(text).safe_substitute(values))
    command = [program, "-db", "-f", str(path)] if kind == "haproxy" else [program, "-p", str(folder), "-c", str(path)]
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | values, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    async with answering(process, _answers, port, within=15):
        yield f"http://127.0.0.1:{port}"


async def _answers(port: int) -> bool:
    """Whether a node answers through it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        await writer.drain()
        return (await reader.readline()).split()[1:2] == [b"200"]
    except OSError:
        return False
    finally:
        writer.close()
