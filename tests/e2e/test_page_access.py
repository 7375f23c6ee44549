"""Accessibility: axe in every state, forced colours, large text on a small phone, what a screen reader hears."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.e2e.browser import PHONE, Tab, chromium, tab
from tests.support.program import Program, running
from tests.support.programs import require_package

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("page access")]

STATES = """import('/static/words.js').then(({ STATES }) => Object.keys(STATES))"""

SHOW = """([state, connection]) => import('/static/hero.js').then(({ Hero }) =>
  (globalThis.shown ??= new Hero({})).render({
  state, seq: 9, since: new Date().toISOString(), phoneNumber: '+447441395830', displayName: 'Ada Lovelace',
  index: 1, total: 6, qr: state === 'qr' ? '2@' + 'x'.repeat(230) : undefined, pairingCode: 'ABCD-EFGH',
  expiresAt: new Date(Date.now() + 60000).toISOString(), until: '2031-01-01T00:00:00.000Z',
  userAction: 'Wait until the ban ends, then link the account again.',
}, connection))"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    async with running(tmp_path_factory.mktemp("data"), disconnect_grace=0.1) as started:
        yield started


async def violations(page: Tab) -> list[str]:
    """What axe finds wrong with the page as it is now."""
    if not await page.page.evaluate("'axe' in window"):
        await page.page.evaluate((require_package("axe-core") / "axe.min.js").read_text())
    found: dict[str, Any] = await page.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{item['id']}: {node['html'][:160]}" for item in found["violations"] for node in item["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_any_state(
    browser: Browser, program: Program, scheme: Literal["light", "dark"]
) -> None:
    async with tab(browser, program.url, f"axe-{scheme}", scheme=scheme) as page:
        await page.state("idle")
        assert await violations(page) == []
        await page.at("#alternative summary").click()
        await page.at("#identity summary").click()
        await page.open("#phone")
        await page.open("#phone-more")
        await page.open("#faults")
        assert await violations(page) == [], "everything unfolded"
        await page.link()
        await page.at(".qr").wait_for()
        assert await violations(page) == [], "a code"
        await page.phone("scan")
        await page.state("connected")
        await page.at(".history summary").first.click()
        assert await violations(page) == [], "events"
        await page.at("#unlink").click()
        assert await violations(page) == [], "the question"
        await page.answer(yes=False)
        for state in await page.page.evaluate(STATES):
            await page.page.evaluate(SHOW, [state, "connected"])
            assert await violations(page) == [], state
        for connection in ("offline", "reconnecting", "refused", "signed_out"):
            for state in ("unknown", "connected"):
                await page.page.evaluate(SHOW, [state, connection])
                assert await violations(page) == [], (state, connection)


async def test_the_page_without_a_token_and_a_refused_one_are_clean(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "elsewhere", " bad ", expected=("WebSocket", "Failed to load")) as page:
        await page.connection("refused")
        assert await violations(page) == []


async def test_text_twice_as_large_fits_a_small_phone(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "large", size=PHONE) as page:
        await page.state("idle")
        await page.page.evaluate("document.documentElement.style.fontSize = '200%'")
        for unfold in ("#alternative", "#identity", "#phone", "#phone-more", "#faults"):
            await page.open(unfold)
        assert await page.overflow() == []
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        await page.at(".history summary").first.click()
        assert await page.overflow() == []
        for state in await page.page.evaluate(STATES):
            await page.page.evaluate(SHOW, [state, "connected"])
            await page.state(state)
            assert await page.overflow() == [], state


async def test_everything_to_press_is_large_enough(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "targets", size=PHONE) as page:
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        for unfold in ("#identity", "#phone", "#phone-more", "#faults"):
            await page.open(unfold)
        small: list[str] = await page.page.evaluate(
            """() => [...document.querySelectorAll('button, summary, input, a[href]')]
              .filter((e) => e.checkVisibility() && !e.matches('.skip'))
              .filter((e) => { const box = e.getBoundingClientRect(); return box.width < 24 || box.height < 24; })
              .map((e) => `${e.outerHTML.slice(0, 80)} ${JSON.stringify(e.getBoundingClientRect())}`)"""
        )
        assert small == []


async def test_forced_colours_tell_what_is_disabled_and_what_is_first(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "contrast") as page:
        await page.page.emulate_media(forced_colors="active")
        await page.state("idle")
        await page.connection("connected")
        look = "(e) => { const s = getComputedStyle(e); return [s.color, s.backgroundColor, s.borderTopStyle].join(); }"
        first = await page.at("#link").evaluate(look)
        quiet = await page.at("#offline").evaluate(look)
        assert first != quiet
        await page.open("#phone")
        disabled = await page.at('[data-action="scan"]').evaluate(look)
        assert disabled not in {first, quiet}


async def test_what_a_screen_reader_hears(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "reader") as page:
        await page.link()
        announcement = page.at("#announcement")
        assert await announcement.get_attribute("role") == "status"
        await expect(announcement).to_contain_text("New QR code, 1 of 6. Valid for ")
        log = page.page.get_by_role("log", name="Event log")
        await expect(log.locator("li")).to_have_count(2)
        summary = page.at(".history summary").first
        assert (await summary.inner_text()).split("\n")[0].startswith("Delivery timeline")
        assert (await summary.evaluate("(e) => e.textContent")) == "Delivery timeline of event 2"
        assert await summary.get_attribute("aria-label") is None


async def test_what_happens_and_what_arrived_come_before_the_tools(browser: Browser, program: Program) -> None:
    for size in (PHONE, (1180, 820)):
        async with tab(browser, program.url, "order", size=size) as page:
            await expect(page.at("#phone")).to_be_visible()
            order = await page.page.evaluate(
                "[...document.querySelectorAll('#hero, .timeline, #side')].map((e) => e.id || e.className)"
            )
            assert order == ["hero", "timeline", "side"]
            assert await page.at("#phone").get_attribute("open") is None
            assert await page.at("#faults").get_attribute("open") is None
            tops = [
                await page.at(part).evaluate("(e) => e.getBoundingClientRect().top") for part in ("#hero", ".timeline")
            ]
            assert tops == sorted(tops)
