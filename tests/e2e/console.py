"""The console in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Literal

from playwright.async_api import Browser, Locator, Page, expect

from tests.e2e.browser import DESKTOP, WITHIN
from tests.support.program import ROOT

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"

_ON = re.compile("^on")

_WATCH = """
addEventListener('securitypolicyviolation', (e) => console.error('CSP: ' + e.violatedDirective + ' ' + e.blockedURI));
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({ type: 'longtask', buffered: true });
"""


class Console:
    """One open console. `troubles` is what its JavaScript console complained about, CSP violations among it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.troubles: list[str] = []

    def at(self, selector: str) -> Locator:
        return self.page.locator(selector)

    async def open(self, path: str = "/") -> None:
        await self.page.goto(self.url + path)
        await self.live()

    async def live(self) -> None:
        await expect(self.at(".status")).to_have_attribute("data-status", "live", timeout=WITHIN)

    async def view(self, name: str) -> None:
        """Open a view by the navigation."""
        await self.page.get_by_role("navigation", name="Views").get_by_role("link", name=name, exact=True).click()
        await expect(self.at("main h1")).to_have_text(name)

    async def verdict(self, cause: str, within: float) -> Locator:
        """Wait until the verdict, or one of its further findings, names a cause; the finding. `within` in seconds."""
        found = self.at(f'.verdict[data-cause="{cause}"] > p, .verdict li[data-cause="{cause}"]').first
        await expect(found).to_be_visible(timeout=within * 1000)
        return found

    async def switch(self, fault: str, *, on: bool, parameter: float | None = None) -> None:
        """Use the view's own button."""
        await self.view("Faults")
        card = self.at(f'[data-fault="{fault}"]')
        if on and parameter is not None:
            await card.locator("input").fill(str(parameter))
        await card.get_by_role("button").click()
        await expect(card.locator(".tag").first).to_have_text("off" if not on else _ON, timeout=WITHIN)

    async def axe(self) -> list[str]:
        """Serious and critical findings of axe."""
        if not await self.page.evaluate("'axe' in window"):
            await self.page.evaluate(AXE.read_text())
        result: dict[str, Any] = await self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{found['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for found in result["violations"]
            if found["impact"] in {"serious", "critical"}
            for node in found["nodes"]
        ]

    async def overflow(self) -> float:
        """By how many pixels the page is wider than the screen."""
        width: float = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return width

    async def long_tasks(self) -> list[float]:
        tasks: list[float] = await self.page.evaluate("window.longTasks")
        return tasks


@asynccontextmanager
async def console(
    browser: Browser,
    url: str,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
    expected: Collection[str] = (),
) -> AsyncIterator[Console]:
    """A console, not yet opened. In the end its JavaScript console must have said nothing but what is `expected`."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
    )
    await context.add_init_script(_WATCH)
    try:
        page = await context.new_page()
        opened = Console(page, url)
        page.on("pageerror", lambda error: opened.troubles.append(f"error: {error}"))
        page.on(
            "console", lambda line: opened.troubles.append(line.text) if line.type in {"error", "warning"} else None
        )
        foreign: list[str] = []
        page.on("request", lambda request: None if request.url.startswith(url) else foreign.append(request.url))
        yield opened
        said = [trouble for trouble in opened.troubles if not any(part in trouble for part in expected)]
        assert said == [], said
        assert foreign == [], foreign
    finally:
        await context.close()
