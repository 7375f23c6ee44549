"""Pictures of the real page and the real console for the documentation: `python -m tests.e2e.pictures` writes
docs/pictures/page-*.png and console-*.png."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from playwright.async_api import Browser

from tests.e2e.browser import PHONE, Tab, chromium, tab
from tests.e2e.console import Console, console
from tests.support.program import ROOT, api, running
from tests.support.py_client import py_client

PICTURES = ROOT / "docs" / "pictures"


async def shoot(page: Tab, name: str) -> None:
    await page.page.mouse.move(0, 0)
    await page.page.wait_for_timeout(400)  # the ring and the tick are drawn by then; a picture, not a test
    await page.page.screenshot(path=PICTURES / f"page-{name}.png")


async def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        async with running(Path(data), disconnect_grace=0.1) as program, chromium() as browser:
            url = program.url
            async with tab(browser, url, "demo") as page, api(program, "demo") as phone:
                await page.link()
                await shoot(page, "qr")
                await page.phone("scan")
                await page.state("connected")
                await shoot(page, "connected")
                await page.at("#offline").click()
                await page.phone("disconnect")
                await phone.state("disconnected", "bot-1")
                await page.phone("reconnect")
                await phone.state("connected", "bot-1")
                await page.at("#offline").click()
                await page.at(".badge-replayed").first.wait_for()
                await page.at(".history summary").first.click()
                await shoot(page, "replayed")
            async with tab(browser, url, "night", scheme="dark") as page:
                await page.link()
                await shoot(page, "qr-dark")
            async with tab(browser, url, "hand", size=PHONE, scheme="dark") as page:
                await page.link()
                await shoot(page, "phone")
            await shoot_console(browser)


PEOPLE = ("grace", "linus", "barbara", "ken")
VIEWS = ("Overview", "Misses", "Traces", "Sockets", "Links", "Health", "Faults")


async def shoot_console(browser: Browser) -> None:
    """An ordinary day with four pages, and one page that says bot-2 where the caller says bot-1."""
    with tempfile.TemporaryDirectory() as data:
        async with (
            running(Path(data), disconnect_grace=0.1) as program,
            AsyncExitStack() as stack,
            console(browser, program.admin_url) as seen,
        ):
            await seen.open()
            for user in PEOPLE:
                it = await stack.enter_async_context(api(program, user))
                await stack.enter_async_context(py_client(program.url, user, "bot-1", acks=True))
                await it.link("bot-1")
                await it.state("qr", "bot-1")
                await it.simulate("scan", "bot-1")
                await it.state("connected", "bot-1")
                await asyncio.sleep(6)  # the charts have a point every five seconds
            ada = await stack.enter_async_context(api(program, "ada"))
            await stack.enter_async_context(py_client(program.url, "ada", "bot-2", acks=True))
            await ada.link("bot-1")
            await ada.state("qr", "bot-1")
            await seen.verdict("key_mismatch", 10)
            await seen.at(".verdict .show").click()
            await seen.at(".span-failed").first.wait_for()
            await shoot_view(seen, "event")
            for view in VIEWS:
                await seen.view(view)
                await shoot_view(seen, view.lower())


async def shoot_view(seen: Console, name: str) -> None:
    await seen.page.wait_for_timeout(800)  # what is fetched is there by then; a picture, not a test
    await seen.page.screenshot(path=PICTURES / f"console-{name}.png")


if __name__ == "__main__":
    asyncio.run(main())
