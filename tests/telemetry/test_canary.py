"""The whole lifecycle of a link with canaries for everything private, and a look at all that leaves the process."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.support.otlp import Receiver, receiving
from tests.support.program import Api, api, running
from tests.support.py_client import eventually, py_client
from tests.whatsapp.stand_in import stand_in

USER = "canary-user-of-the-mine"
BOT = "canary-bot"
PHONE = "+4915112345678"
TOKEN = "canary-token-abcdef"  # noqa: S105  # that is what it stands for


def spellings(secret: str) -> Iterable[str]:
    """A secret as it is, as a URL has it, as base64, and a phone number without its plus and in parts."""
    yield secret
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode().rstrip("=")
    if secret.startswith("+"):
        yield secret[1:]
        yield secret[4:]


class Outlets:
    """What left the process, by where it left."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}

    def add(self, where: str, text: bytes | str) -> None:
        self.texts[where] = self.texts.get(where, b"") + (text.encode() if isinstance(text, str) else text)

    def look_for(self, secrets: Iterable[str]) -> None:
        for where, text in self.texts.items():
            assert text, f"nothing left by {where}: the test looked at nothing"
            for secret in secrets:
                assert len(secret) > 3, "a canary that short is everywhere"
                for spelling in spellings(secret):
                    at = text.find(spelling.encode())
                    assert at < 0, f"{secret!r} left by {where}: {text[max(0, at - 200) : at + 100]!r}"


async def refused(session: aiohttp.ClientSession, url: str, outlets: Outlets) -> None:
    """Requests that are answered by a problem document, each with canaries in every place."""
    own = {"X-User-Id": USER, "Authorization": f"Bearer {TOKEN}", "Cookie": f"token={TOKEN}"}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", f"/api/bots/{BOT}/link", {"json": {"phoneNumber": f"{PHONE}999999999999"}}),
        ("PUT", f"/api/bots/{BOT}/link", {"data": f"{{{PHONE}".encode()}),
        ("PUT", f"/api/bots/{BOT}/link", {"json": {"phoneNumber": [PHONE], TOKEN: PHONE}}),
        ("POST", f"/api/bots/{BOT}/link/simulate", {"json": {"action": PHONE}}),
        ("GET", f"/api/bots/{BOT}/events?after={quote(PHONE)}&token={TOKEN}", {}),
        ("GET", f"/api/events/{quote(PHONE)}", {}),
        ("GET", f"/nowhere/{USER}?token={TOKEN}", {}),
        ("PATCH", f"/api/bots/{BOT}/link?userId={USER}", {}),
        ("PUT", f"/api/bots/{quote(PHONE * 30)}/link", {}),
    ]
    for method, path, body in requests:
        async with session.request(method, url + path, headers=own, **body) as response:
            assert 400 <= response.status < 500, (method, path, response.status)
            outlets.add("problem documents", await response.read())
            outlets.add("their headers", str(dict(response.headers)))


async def link_lifecycle(own: Api, bot: str, url: str) -> set[str]:
    """Link, scan, lose, regain and log out with a socket there and a while without; the secrets that were shown."""
    secrets: set[str] = set()
    await own.link(bot)
    await own.state("qr", bot)
    async with py_client(url, own.user, bot, token=TOKEN) as client:
        await client.until(lambda: any("qr" in shown for shown in (*client.events, *client.snapshots)))
        await own.simulate("scan", bot)
        connected = await own.state("connected", bot)
        await own.simulate("disconnect", bot)
        await client.until(lambda: any(event["type"] == "whatsapp_connected" for event in client.events))
        secrets |= {shown["qr"] for shown in (*client.events, *client.snapshots) if "qr" in shown}
    secrets |= {connected["phoneNumber"], connected["displayName"]}
    await own.simulate("reconnect", bot)
    await own.simulate("logout", bot)
    await own.state("logged_out", bot)
    async with py_client(url, own.user, bot) as client:
        await client.count(1)
    return secrets


async def pairing(own: Api, bot: str) -> str:
    await own.link(bot, PHONE)
    snapshot = await own.state("pairing_code", bot)
    code: str = snapshot["pairingCode"]
    return code


def kinds(receiver: Receiver) -> set[str]:
    return {span.name.split()[0] for span in receiver.spans}


@pytest.mark.slow
async def test_nothing_private_leaves_in_the_whole_lifecycle_of_a_link(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outlets = Outlets()
    with receiving() as receiver:
        settings: dict[str, Any] = {
            "log_level": "DEBUG",
            "simulated_speed": 20,
            "faults": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": 100,
            "OTEL_BLRP_SCHEDULE_DELAY": 100,
        }
        async with running(tmp_path, **settings) as program, api(program, USER) as own, aiohttp.ClientSession() as web:
            secrets = await link_lifecycle(own, BOT, program.url)
            secrets.add(await pairing(own, f"{BOT}-2"))
            await refused(web, program.url, outlets)
            await eventually(
                lambda: kinds(receiver) >= {"PUT", "link", "worker", "create", "emit", "ack", "socket"}, 10
            )
            async with web.get(f"{program.admin_url}/metrics") as response:
                outlets.add("metrics", await response.read())
            accept = {"Accept": "application/openmetrics-text"}
            async with web.get(f"{program.admin_url}/metrics", headers=accept) as response:
                outlets.add("metrics with exemplars", await response.read())
            program.terminate()
            assert await program.ended() == 0
            log = program.text()
    outlets.add("the log", log)
    for path, body in receiver.bodies:
        outlets.add(path, body)
    assert set(outlets.texts) >= {"/v1/traces", "/v1/logs", "the log", "metrics", "problem documents"}
    for line in ("socket_mapped", "emit_attempt", "emit_missed", "event_emitted", "event_settled", "socket_removed"):
        assert f'"{line}"' in log, "the lines of the seed are there at DEBUG"
    outlets.look_for({*secrets, USER, PHONE, TOKEN})
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


@pytest.mark.slow
async def test_nothing_private_leaves_when_everything_goes_wrong(tmp_path: Path) -> None:
    """The outbox is down while users link, connect and ask: every line of an error is looked at."""
    outlets = Outlets()
    async with running(tmp_path, log_level="DEBUG") as program, api(program, USER) as own:
        await own.link(BOT)
        await own.state("qr", BOT)
        fault = f"{program.admin_url}/debug/faults/outbox_down"
        async with aiohttp.ClientSession() as web, web.put(fault, json={}) as response:
            assert response.status < 300, await response.text()
        status, answer = await own.call("PUT", f"/api/bots/{BOT}-2/link", {"phoneNumber": PHONE})
        assert status == 503, answer
        outlets.add("problem documents", str(answer))
        scan = asyncio.ensure_future(own.call("POST", f"/api/bots/{BOT}/link/simulate", {"action": "scan"}))
        await eventually(lambda: "link_event_waits" in program.text(), 10)
        scan.cancel()
        assert (await own.metrics())["roundtrip_outbox_failures_total"] > 0
        program.terminate()
        await program.ended()
        outlets.add("the log", program.text())
    outlets.look_for({USER, PHONE})


@pytest.mark.slow
async def test_nothing_private_leaves_with_the_real_library_and_its_workers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The workers' standard error goes where the program's goes, and Go prints there too."""
    phone, name = "447441395830", "Canary of the Mine"
    outlets = Outlets()
    with receiving() as receiver:
        settings: dict[str, Any] = {
            "log_level": "DEBUG",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": 100,
        }
        async with (
            stand_in() as whatsapp,
            running(
                tmp_path,
                command=whatsapp.backend_command,
                whatsapp_driver="neonize",
                whatsapp_proxy=whatsapp.proxy_url,
                **settings,
            ) as program,
            api(program, USER) as own,
            py_client(program.url, USER, BOT) as client,
        ):
            await own.link(BOT)
            await client.until(lambda: any("qr" in event for event in client.events), 20)
            code: str = next(event["qr"] for event in client.events if "qr" in event)
            await whatsapp.scan(code, phone, name)
            await own.state("connected", BOT, 20)
            whatsapp.logout_from_phone(phone)
            await own.state("logged_out", BOT, 20)
            await eventually(lambda: "worker" in kinds(receiver), 20)  # the worker has ended, and its span was exported
            program.terminate()
            await program.ended()
        outlets.add("the log", program.text())
        for path, body in receiver.bodies:
            outlets.add(path, body)
    assert {"worker", "create", "ack"} <= kinds(receiver)
    outlets.look_for({USER, f"+{phone}", name, code})
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
