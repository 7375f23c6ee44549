"""Ten thousand sockets and a thousand links do not hold up the console's page, nor the event loop behind it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from playwright.async_api import expect

from roundtrip.app import Backend
from roundtrip.identity import BotKey
from roundtrip.links.payloads import LinkView
from roundtrip.links.record import LinkState
from roundtrip.settings import Settings
from roundtrip.sockets.peer import Peer
from tests.e2e.browser import WITHIN, chromium
from tests.e2e.console import console
from tests.support.process_state import put_back

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SOCKETS = 10_000
LINKS = 1000
LONGEST_TASK = 100.0
"""Milliseconds that the page may hold up its reader."""

SINCE = "2026-01-01T00:00:00.000Z"


@dataclass
class Mapped:
    """A mapped socket, as far as the console looks at one."""

    sid: str
    key: BotKey
    connected_at: float
    transport: str = "websocket"
    must_ack: bool = True
    live: bool = True
    backlog: int = 0


def link(number: int) -> LinkView:
    return LinkView(
        f"link-{number}",
        f"user-{number}",
        "bot",
        LinkState.CONNECTED,
        SINCE,
        0,
        0,
        1,
        "[phone …67]",
        None,
        False,
        0,
        False,
    )


async def test_ten_thousand_sockets_and_a_thousand_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(auth="trusted", port=0, admin_port=0, data_dir=tmp_path, whatsapp_driver="simulated")
    with put_back():
        backend = Backend(settings)
        await backend.start()
        try:
            for number in range(SOCKETS):
                peer = Mapped(f"sid-{number:05}", BotKey(f"user-{number}", "bot"), time.monotonic())
                backend.registry.add(cast("Peer", peer))
            links = [link(number) for number in range(LINKS)]
            monkeypatch.setattr(backend.links, "links", lambda: links)
            longest = await look(backend.admin_url)
            if longest > LONGEST_TASK:  # once more: on a busy machine a task is long by waiting
                longest = await look(backend.admin_url)
            assert longest <= LONGEST_TASK
        finally:
            for mapped in backend.registry.all():
                backend.registry.remove(mapped)
            await backend.stop()


async def look(url: str) -> float:
    """Walk through the lists; the longest task of the page, in milliseconds."""
    async with chromium() as browser, console(browser, url) as seen:
        await seen.open()
        for view, name, last in (("Sockets", "socket", SOCKETS), ("Links", "link", LINKS)):
            await seen.view(view)
            rows = seen.at("main table").first.locator("tbody tr")
            await expect(rows).to_have_count(100, timeout=WITHIN)
            await seen.page.get_by_role("link", name="100 more").click()
            await expect(rows.first).to_contain_text("user-100", timeout=WITHIN)
            await seen.at('main input[name="q"]').fill(f"user-{last - 1}")
            await seen.at('main input[name="q"]').press("Enter")
            await expect(rows).to_have_count(1, timeout=WITHIN)
            await expect(rows.first).to_contain_text(f"user-{last - 1}")
            await asyncio.sleep(1.5)  # some live messages and a refresh, over the long list
            print(name, [round(task) for task in await seen.long_tasks()])
        return max(await seen.long_tasks(), default=0.0)
