"""What the page says while it cannot know, before something ends, and where nothing is linked."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.e2e.browser import WITHIN, chromium, open_in, tab
from tests.e2e.test_page import LEFT, REFUSED
from tests.support import tokens
from tests.support.program import Program, api, running

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("page states")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    async with running(tmp_path_factory.mktemp("data"), disconnect_grace=0.1) as started:
        yield started


async def test_with_the_backend_gone_the_page_says_what_it_last_knew_and_offers_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    async with running(tmp_path) as program, tab(browser, program.url, "gone", expected=LEFT) as page:
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        program.kill()
        await page.connection("reconnecting")
        notice = page.at("#notice")
        await expect(notice).to_contain_text("Disconnected from the backend. This is the last known state, from ")
        await expect(page.at("#eyebrow")).to_have_text("Last known state")
        await expect(page.at("#headline")).to_have_text("Connected")
        await expect(page.at("#unlink")).to_have_attribute("aria-disabled", "true")
        await page.at("#unlink").dispatch_event("click")
        await expect(page.at("#question")).to_be_hidden()
        await expect(page.at('[data-action="logout"]')).to_have_attribute("aria-disabled", "true")


async def test_offline_nothing_can_be_changed_until_the_page_is_online(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "away2", expected=LEFT) as page:
        await page.connection("connected")
        await page.at("#offline").click()
        await expect(page.at("#notice")).to_contain_text("You are offline.")
        await expect(page.at("#link")).to_have_attribute("aria-disabled", "true")
        await page.at("#offline").click()
        await expect(page.at("#notice")).to_be_hidden()
        await page.link()


async def test_a_pairing_that_was_cancelled_is_no_failure(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "cancel") as page:
        await page.link()
        await page.at("#unlink").click()  # nothing is lost by it, so nothing is asked
        await page.state("logged_out")
        await expect(page.at("#headline")).to_have_text("Linking cancelled")
        await expect(page.at("#hero")).to_have_attribute("data-tone", "calm")
        await expect(page.at("#events .title").first).to_have_text("Linking cancelled cancelled")


async def test_logging_out_is_asked_about_and_can_be_called_off(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "ask") as page, api(program, "ask") as phone:
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        await page.at("#unlink").click()
        await expect(page.at("#question")).to_be_visible()
        await expect(page.at("#question-text")).to_contain_text("removed from the WhatsApp account")
        assert await page.page.evaluate("document.activeElement.value") == "no"
        await page.page.keyboard.press("Escape")
        await expect(page.at("#question")).to_be_hidden()
        await page.at("#unlink").click()
        await page.answer(yes=False)
        assert (await phone.snapshot("bot-1"))["state"] == "connected"
        await page.at("#unlink").click()
        await page.answer()
        await page.state("logged_out")
        await expect(page.at("#hero")).to_have_attribute("data-tone", "bad")


async def test_after_a_reload_the_log_is_the_ledgers(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "reload", expected=LEFT) as page:
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        await page.page.reload()
        await page.state("connected")
        await expect(page.at("#events > li")).to_have_count(4, timeout=WITHIN)
        assert [(row["seq"], row["way"]) for row in await page.rows()] == [(seq, "earlier") for seq in (1, 2, 3, 4)]
        await expect(page.at("#counts")).to_have_text("4 earlier")
        await page.phone("degrade")
        await expect(page.at("#events > li")).to_have_count(5, timeout=WITHIN)
        assert (await page.rows())[-1]["way"] == "live"
        await page.at(".history summary").last.click()
        await expect(page.at(".story-body").last).to_contain_text("acknowledged by the application", timeout=WITHIN)


async def test_a_link_under_another_bot_id_is_pointed_out(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "other", "bot-x", expected=LEFT) as page, api(program, "other") as phone:
        await expect(page.at("#elsewhere")).to_be_hidden()
        await phone.link("bot-1")
        await phone.state("qr", "bot-1")
        await page.page.reload()
        await expect(page.at("#elsewhere")).to_contain_text("Nothing is linked under bot id “bot-x”", timeout=WITHIN)
        await expect(page.at("#elsewhere")).to_contain_text("“bot-1” (qr)")
        await page.page.get_by_role("button", name="Switch to bot-1").click()
        await page.state("qr")
        await expect(page.at("#who-text")).to_have_text("other · bot-1")
        await expect(page.at("#elsewhere")).to_be_hidden()


async def test_a_code_that_cannot_be_scanned_can_be_typed(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "camera", expected=(REFUSED,)) as page:
        await page.link()
        await page.page.get_by_text("No camera? Use a phone number").click()
        await page.page.get_by_label("Phone number, with country code").fill("+44 7400 123457")
        await page.page.keyboard.press("Enter")
        await page.state("pairing_code")


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"exp": 1_000_000_000}, "expired"),
        ({"aud": "other"}, "another audience"),
        ({"iss": "https://other.example"}, "another issuer"),
    ],
)
async def test_a_refused_token_is_refused_with_the_reason(
    browser: Browser, tmp_path: Path, claims: dict[str, Any], sentence: str
) -> None:
    key = tokens.private_key("ES256")
    settings: dict[str, Any] = {
        "auth": "jwt",
        "jwt_public_key": tokens.public_pem(key),
        "jwt_issuer": tokens.ISSUER,
        "jwt_audience": "us",
    }
    good: dict[str, Any] = {"aud": "us", "exp": int(time.time()) + 600}
    async with (
        running(tmp_path, **settings) as program,
        tab(browser, program.url, "unused", expected=(*LEFT, "status of 400")) as page,
    ):
        field = page.page.get_by_label("Access token")
        await field.fill(tokens.token(key, algorithm="ES256", kid=None, **{**good, **claims}))
        await page.page.keyboard.press("Enter")
        await page.connection("refused")
        await expect(page.at("#problem")).to_contain_text(sentence)
        await field.fill(tokens.token(key, algorithm="ES256", kid=None, **good))
        await page.page.keyboard.press("Enter")
        await page.connection("connected")
        await page.at("#identity summary").click()
        await field.fill(tokens.token(key, algorithm="ES256", kid=None, **{**good, **claims}))
        await page.page.keyboard.press("Enter")  # a renewal that is refused changes nothing, for HTTP neither
        await expect(page.at("#problem")).to_contain_text(sentence)
        await page.link()


async def test_two_tabs_of_one_user_show_the_same_log(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "twice2") as page:
        await page.link()
        second = await open_in(page.page.context.new_page, program.url)
        await second.state("qr")
        await expect(second.at("#events > li")).to_have_count(2, timeout=WITHIN)
        assert [row["seq"] for row in await second.rows()] == [row["seq"] for row in await page.rows()]
