"""The page in a real Chromium, as a person sees and uses it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Literal

from playwright.async_api import Browser, Locator, Page, Request, async_playwright, expect

from tests.support.program import ROOT
from tests.support.programs import require

FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = (1180, 820)
PHONE = (360, 740)
WITHIN = 10_000.0
"""Milliseconds that a busy machine may take for what should be there at once."""

_WATCH = "addEventListener('securitypolicyviolation', (e) => console.error('CSP: ' + e.violatedDirective))"


class Tab:
    """One open page. `troubles` is what its console complained about, CSP violations among it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.troubles: list[str] = []
        self.foreign: list[str] = []
        """Addresses of another origin that the page asked for."""

    def at(self, selector: str) -> Locator:
        return self.page.locator(selector)

    async def state(self, wanted: str, within: float = WITHIN) -> None:
        await expect(self.at("#hero")).to_have_attribute("data-state", wanted, timeout=within)

    async def connection(self, wanted: str) -> None:
        await expect(self.at("#connection")).to_have_attribute("data-status", wanted, timeout=WITHIN)

    async def link(self) -> None:
        """Press the button and wait for the code."""
        await self.connection("connected")
        await self.at("#link").click()
        await self.state("qr")

    async def phone(self, action: str) -> None:
        """Press one of the simulated phone's buttons."""
        button = self.at(f'[data-action="{action}"]')
        await self.open("#phone")
        if await button.locator("xpath=ancestor::details[@id='phone-more']").count():
            await self.open("#phone-more")
        await expect(button).to_have_attribute("aria-disabled", "false", timeout=WITHIN)
        await button.click()

    async def open(self, details: str) -> None:
        """Unfold a part of the page that is folded."""
        summary = self.at(f"{details} > summary")
        await expect(summary).to_be_visible(timeout=WITHIN)
        if await self.at(details).get_attribute("open") is None:
            await summary.click()

    async def answer(self, yes: bool = True) -> None:
        """Answer the page's question."""
        await self.at(f'#question button[value="{"yes" if yes else "no"}"]').click()

    async def rows(self) -> list[dict[str, Any]]:
        """The events, oldest first: each as its row's data attributes."""
        rows: list[dict[str, Any]] = await self.at("#events > li").evaluate_all(
            "(rows) => rows.map((row) => ({seq: +row.dataset.seq, type: row.dataset.type, way: row.dataset.way}))"
        )
        return rows[::-1]

    async def overflow(self) -> list[str]:
        """What sticks out of the screen's side."""
        found: list[str] = await self.page.evaluate(
            """() => [...document.querySelectorAll('body *')]
              .filter((e) => !e.closest('.visually-hidden, .skip') && e.checkVisibility())
              .filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
              .map((e) => e.tagName + '#' + e.id + '.' + e.getAttribute('class'))"""
        )
        width = await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return found if width <= 0 else [*found, f"the page scrolls {width} px sideways"]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Skips the test where the machine has no Chromium, or the page's libraries are not installed."""
    path = require("chromium", "apt-get install chromium")
    if not (ROOT / "node_modules" / "socket.io-client").is_dir():
        require("npm", "apt-get install npm, then npm ci")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def tab(
    browser: Browser,
    url: str,
    user: str,
    bot: str = "bot-1",
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
    calm: bool = True,
    expected: Collection[str] = (),
) -> AsyncIterator[Tab]:
    """Open the page as this user. `calm` asks for reduced motion. At the end its console must have said nothing but
    what `expected` names, and nothing may have come from another origin."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        reduced_motion="reduce" if calm else "no-preference",
        locale="en-GB",
        timezone_id="UTC",
    )
    ids = json.dumps(json.dumps({"userId": user, "botId": bot}))
    await context.add_init_script(
        f"localStorage.getItem('roundtrip.identity') ?? localStorage.setItem('roundtrip.identity', {ids}); {_WATCH}"
    )
    try:
        opened = await open_in(context.new_page, url)
        yield opened
        said = [trouble for trouble in opened.troubles if not any(part in trouble for part in expected)]
        assert said == [], said  # a helper: pytest does not spell these out
        assert opened.foreign == [], opened.foreign
    finally:
        await context.close()


async def open_in(new_page: Any, url: str) -> Tab:
    """One more page of a context: `context.new_page`."""
    page: Page = await new_page()
    opened = Tab(page)

    def asked(request: Request) -> None:
        if not request.url.startswith((url, url.replace("http", "ws", 1), "data:")):
            opened.foreign.append(request.url)

    page.on("request", asked)
    page.on("pageerror", lambda error: opened.troubles.append(f"error: {error}"))
    page.on("console", lambda line: opened.troubles.append(line.text) if line.type in {"error", "warning"} else None)
    await page.goto(f"{url}/")
    return opened
