"""Pictures of the real page for the documentation: `python -m tests.e2e.pictures` writes docs/pictures/page-*.png."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.e2e.browser import PHONE, Tab, chromium, tab
from tests.support.program import ROOT, api, running

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


if __name__ == "__main__":
    asyncio.run(main())
