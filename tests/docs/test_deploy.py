"""The proxies of docs/deploy.md as they stand there, with other ports: TLS, upgrade, and the client's own address."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import socketio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.ports import free_port
from tests.support.program import ROOT, running
from tests.support.programs import require
from tests.support.tokens import USER, private_key, public_pem, token

LIMITS = {"handshakes_per_address": 0.001, "handshakes_per_address_burst": 2}
"""Two connections of an address, then none for a long time: whose address counts is seen at once."""


def example(language: str) -> str:
    """The configuration of a proxy in docs/deploy.md."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key; the first file holds both, as HAProxy reads them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatsapp.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "both.pem").write_bytes(made.public_bytes(Encoding.PEM) + private)
    (folder / "key.pem").write_bytes(private)
    return folder / "both.pem", folder / "key.pem"


def nginx_command(folder: Path, port: int, backend: str) -> list[str]:
    both, key = certificate(folder)
    changes = {
        "127.0.0.1:8080": backend,
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/whatsapp.example.pem": str(both),
        "/etc/ssl/whatsapp.example.key": str(key),
    }
    temporary = "".join(
        f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr crit;\n"
        "events { worker_connections 64; }\n"
        f"http {{ access_log off; {temporary}\n{replaced(example('nginx'), changes)} }}\n"
    )
    return [require("nginx", "apt-get install nginx-light"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy_command(folder: Path, port: int, backend: str) -> list[str]:
    both, _ = certificate(folder)
    changes = {
        "127.0.0.1:8080": backend,
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/ssl/whatsapp.example.pem": str(both),
    }
    (folder / "haproxy.cfg").write_text(replaced(example("haproxy"), changes))
    return [require("haproxy", "apt-get install haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


@asynccontextmanager
async def proxied(folder: Path, command: Callable[[Path, int, str], list[str]], backend: str) -> AsyncIterator[str]:
    """A proxy that runs the documented configuration; its address."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(*command(folder, port, backend.removeprefix("http://")))
    try:
        async with asyncio.timeout(10):
            while True:
                assert process.returncode is None
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield f"https://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@pytest.mark.parametrize("command", [nginx_command, haproxy_command])
async def test_a_documented_proxy_passes_sockets_and_addresses(
    tmp_path: Path, command: Callable[[Path, int, str], list[str]]
) -> None:
    key = public_pem(private_key("RS256"))
    settings: dict[str, Any] = {"auth": "jwt", "jwt_public_key": key, "forwarded_allow_ips": "127.0.0.1", **LIMITS}
    trust = ssl.create_default_context()
    async with (
        running(tmp_path / "data", **settings) as program,
        proxied(tmp_path, command, program.url) as url,
        connection(trust, "127.0.0.1") as one,
        connection(trust, "127.0.0.2") as other,
    ):
        trust.load_verify_locations(tmp_path / "both.pem")
        client = socketio.AsyncClient(http_session=one, reconnection=False)
        events: list[str] = []
        client.on("whatsapp_connection_event", lambda event: events.append(event["type"]))
        bearer = token(private_key("RS256"))
        await client.connect(url, auth={"token": bearer, "botId": "bot"}, transports=["websocket"])
        try:
            headers = {"Authorization": f"Bearer {bearer}", "X-User-Id": USER}
            async with other.put(f"{url}/api/bots/bot/link", headers=headers) as response:
                assert response.status == 202, await response.text()
            async with asyncio.timeout(10):
                while "whatsapp_qr" not in events:
                    await asyncio.sleep(0.02)
        finally:
            await client.disconnect()
        assert [await polled(one, url) for _ in range(3)] == [200, 429, 429], "its second connection, then too many"
        assert await polled(one, url, {"X-Forwarded-For": "9.9.9.9"}) == 429, "a client cannot say who it is"
        assert await polled(other, url) == 200, "another client has a limit of its own"


@asynccontextmanager
async def connection(trust: ssl.SSLContext, source: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that connects from an address."""
    connector = aiohttp.TCPConnector(ssl=trust, local_addr=(source, 0), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def polled(session: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> int:
    """The status of a new polling connection."""
    async with session.get(f"{url}/socket.io/?EIO=4&transport=polling", headers=headers) as response:
        return response.status
