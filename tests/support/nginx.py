"""A real nginx in front of something, on free ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.ports import free_port
from tests.support.programs import answering, require

UPGRADES = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
"""Without this nginx speaks HTTP/1.0 to the backend and drops `Upgrade`."""

_FORWARD = "proxy_pass http://backend; proxy_set_header Host $http_host;"

_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream backend {{ {servers} }}
    {listeners}
}}
"""


@asynccontextmanager
async def nginx(folder: Path, backends: list[str], *rules: str) -> AsyncIterator[list[str]]:
    """Proxy to the backends in turns; the addresses, one for each of `rules`, which stand in its `location /`."""
    program = require("nginx", "apt-get install nginx-light")
    ports = [free_port() for _ in rules]
    servers = " ".join(f"server {backend.removeprefix('http://')};" for backend in backends)
    listeners = "".join(
        f"server {{ listen 127.0.0.1:{port}; location / {{ {_FORWARD} {rule} }} }}\n"
        for port, rule in zip(ports, rules, strict=True)
    )
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, servers=servers, listeners=listeners))
    process = await asyncio.create_subprocess_exec(program, "-p", str(folder), "-c", str(config))
    async with answering(process, _answers, *ports, within=10):
        yield [f"http://127.0.0.1:{port}" for port in ports]


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
