"""The page against the whole program: from the press of a button to "Connected", and everything that comes between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, expect

from tests.e2e.browser import PHONE, WITHIN, chromium, open_in, tab
from tests.support import tokens
from tests.support.program import Program, api, running

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("page")]

REFUSED = "Failed to load resource"
"""Chromium's own line for an answer of 4xx, which some tests provoke."""

LEFT = (REFUSED, "WebSocket connection")
"""Chromium's lines for a connection that is left in the middle of the stock client's upgrade."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    """One backend for all; each test is a user of its own."""
    async with running(tmp_path_factory.mktemp("data"), disconnect_grace=0.1) as started:
        yield started


async def test_from_the_press_to_connected(browser: Browser, program: Program, tmp_path: Path) -> None:
    async with tab(browser, program.url, "press") as page:
        await page.connection("connected")
        await page.state("idle")
        for _ in range(12):  # the button is reached and pressed with the keyboard alone
            await page.page.keyboard.press("Tab")
            if await page.page.evaluate("document.activeElement.id") == "link":
                break
        else:
            pytest.fail("the keyboard does not reach the button")
        await page.page.keyboard.press("Enter")

        code = page.at(".qr")
        await expect(code).to_be_visible(timeout=WITHIN)
        modules = int(await code.get_attribute("data-modules") or 0)
        assert modules >= 21
        assert (modules - 17) % 4 == 0
        assert len(await code.locator("path").get_attribute("d") or "") > 1000
        box = await code.bounding_box()
        assert box is not None
        assert box["width"] > 220
        assert box["width"] == pytest.approx(box["height"], abs=1)
        # the pressed button went away; the focus is on the headline, not lost
        assert await page.page.evaluate("document.activeElement.id") == "headline"

        caption = page.at(".caption")
        await expect(caption).to_contain_text("Code 1 of 6")
        before = await caption.inner_text()
        drawn = await page.at(".ring-bar").get_attribute("stroke-dasharray")
        await expect(caption).not_to_have_text(before, timeout=3000)
        assert await page.at(".ring-bar").get_attribute("stroke-dasharray") != drawn

        pressed = time.monotonic()
        await page.phone("scan")
        await expect(page.at("#headline")).to_have_text("Connected", timeout=2000)
        print(f"from the scan to Connected on the page: {time.monotonic() - pressed:.2f} s")
        await expect(page.at("#account-name")).not_to_be_empty()
        await expect(page.at("#account-phone")).to_contain_text("+")
        assert await page.page.title() == "Connected · Roundtrip"

        rows = await page.rows()
        assert [row["seq"] for row in rows] == [1, 2, 3, 4]
        assert [row["type"].removeprefix("whatsapp_") for row in rows] == ["connecting", "qr", "paired", "connected"]
        assert {row["way"] for row in rows} == {"live"}
        await expect(page.at(".badge-live")).to_have_count(4)
        await expect(page.at("#connection-text")).to_have_text("Live via websocket", timeout=WITHIN)

        await page.at(".history summary").first.click()
        await expect(page.at(".story-body").first).to_contain_text("acknowledged by the application", timeout=WITHIN)

        picture = tmp_path / "connected.png"
        await page.page.screenshot(path=picture)
        assert picture.stat().st_size > 10_000


async def test_what_happens_while_away_is_replayed(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "away") as page, api(program, "away") as phone:
        await page.link()
        await page.phone("scan")
        await page.state("connected")

        await page.at("#offline").click()
        await page.connection("offline")
        await expect(page.at("#eyebrow")).to_contain_text("Last known")
        await page.phone("disconnect")
        await phone.state("disconnected", "bot-1")
        await page.phone("reconnect")
        await phone.state("connected", "bot-1")
        await page.phone("logout")
        await phone.state("logged_out", "bot-1")
        await page.state("connected")  # as far as this page can know

        await page.at("#offline").click()
        await page.state("logged_out")
        await expect(page.at(".badge-replayed")).not_to_have_count(0, timeout=WITHIN)
        rows = await page.rows()
        assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
        assert [row["way"] for row in rows[:4]] == ["live"] * 4
        assert {row["way"] for row in rows[4:]} == {"replayed"}
        assert rows[-1]["type"] == "whatsapp_logged_out"
        await expect(page.at("#events .meta").first).to_contain_text("attempt 2")
        await expect(page.at("#sentence")).to_contain_text("removed on the phone")


async def test_two_tabs_and_a_late_one(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "tabs") as first:
        second = await open_in(first.page.context.new_page, program.url)
        await second.connection("connected")
        await first.link()
        await second.state("qr")
        await second.phone("scan")
        for page in (first, second):
            await page.state("connected")
            assert [row["seq"] for row in await page.rows()] == [1, 2, 3, 4]
        await first.page.close()  # the one that goes takes nothing from the one that stays
        await second.phone("degrade")
        await second.state("degraded")
        late = await open_in(second.page.context.new_page, program.url)
        await late.state("degraded")
        await expect(late.at("#account-phone")).to_contain_text("+")
        await expect(late.at("#events > li")).to_have_count(5, timeout=WITHIN)
        assert [(row["seq"], row["way"]) for row in await late.rows()] == [(seq, "earlier") for seq in range(1, 6)]
        assert second.troubles == late.troubles == []


async def test_codes_that_ran_out_start_again_with_one_press(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "expired") as page:
        await page.link()
        await page.phone("expire")
        await page.state("qr_expired")
        again = page.page.get_by_role("button", name="Start again")
        await again.click()
        await page.state("qr")
        await expect(page.at(".caption")).to_contain_text("Code 1 of 6")


async def test_a_ban_tells_its_end_and_offers_no_start(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "banned") as page:
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        await page.phone("ban")
        await page.state("banned")
        await expect(page.at("#sentence")).to_contain_text("The ban ends on")
        await expect(page.at("#link")).to_be_hidden()
        await expect(page.at("#hero")).to_have_attribute("data-tone", "bad")


async def test_a_bad_bot_id_is_a_sentence_and_can_be_put_right(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "wrong", " padded ", expected=LEFT) as page:
        await page.connection("refused")
        await expect(page.at("#problem")).to_contain_text("bot id is invalid")
        await expect(page.at("#headline")).to_have_text("Access denied")
        field = page.page.get_by_label("Bot id")
        await expect(field).to_be_visible()  # the form opened by itself
        await field.fill("")
        await page.page.keyboard.press("Enter")
        await expect(page.at("#problem")).to_contain_text("bot id is empty")
        await field.fill("bot-2")
        await page.page.keyboard.press("Enter")
        await page.connection("connected")
        await expect(page.at("#problem")).to_be_hidden()
        await page.state("idle")
        await page.page.reload()
        await expect(page.at("#who-text")).to_have_text("wrong · bot-2")  # remembered


async def test_a_phone_number_gives_a_code_to_type(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "typist", expected=(REFUSED,)) as page:
        await page.state("idle")
        await page.page.get_by_text("Use a phone number instead").click()
        field = page.page.get_by_label("Phone number, with country code")
        await field.fill("12")
        await page.page.keyboard.press("Enter")
        await expect(page.at("#phone-error")).to_contain_text("not a valid phone number")
        await expect(field).to_be_focused()
        assert await field.get_attribute("aria-invalid") == "true"
        await field.fill("+44 7400 123456")
        await page.page.keyboard.press("Enter")
        await page.state("pairing_code")
        halves = await page.at("#pairing-code > [aria-hidden]").all_inner_texts()
        assert [len(half) for half in halves] == [4, 4]
        await page.phone("scan")
        await page.state("connected")
        await expect(page.at("#account-phone")).to_have_text("+447400123456")


async def test_every_state_fits_a_phone(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "narrow", size=PHONE, scheme="dark") as page:
        await page.state("idle")
        assert await page.overflow() == []
        await page.at("#alternative summary").click()
        await page.at("#identity summary").click()
        await page.at("#faults > summary").click()
        await page.open("#phone")
        await page.at("#phone-more summary").click()
        assert await page.overflow() == []
        await page.link()
        assert await page.overflow() == []
        await page.phone("scan")
        await page.state("connected")
        assert await page.overflow() == []
        states: list[str] = await page.page.evaluate(
            "import('/static/words.js').then(({ STATES }) => Object.keys(STATES))"
        )
        assert len(states) == 15
        for state in states:  # each as a snapshot with the longest fields that the contract allows
            await page.page.evaluate(
                """(state) => import('/static/hero.js').then(({ Hero }) => new Hero({}).render({
                  state, seq: 9, since: new Date().toISOString(), phoneNumber: '+447441395830',
                  displayName: 'Wolfeschlegelsteinhausenbergerdorff'.repeat(3), index: 1, total: 6,
                  qr: state === 'qr' ? '2@' + 'x'.repeat(230) : undefined, pairingCode: 'ABCD-EFGH',
                  expiresAt: new Date(Date.now() + 60000).toISOString(), until: '2031-01-01T00:00:00.000Z',
                  userAction: 'Wait for it, and then link the account again. '.repeat(4),
                }, 'connected'))""",
                state,
            )
            await page.state(state)
            assert await page.overflow() == [], state


async def test_the_policy_lets_no_inline_script_run(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "policy", expected=("CSP", "Content Security Policy")) as page:
        await page.connection("connected")
        with pytest.raises(Error):
            await page.page.add_script_tag(content="window.broken = true")
        assert await page.page.evaluate("window.broken") is None
        async with asyncio.timeout(5):  # so the others' silence means something
            while not any("CSP: script-src" in trouble for trouble in page.troubles):
                await asyncio.sleep(0.02)


async def test_faults_are_switched_from_the_page(browser: Browser, program: Program) -> None:
    async with tab(browser, program.url, "breaker") as page, api(program) as operator:
        await page.at("#faults > summary").click()
        switch = page.page.get_by_role("switch", name="Slow outbox")
        await switch.check()
        async with page.page.expect_response("**/api/faults/slow_outbox") as answered:
            await switch.uncheck()
        assert (await answered.value).status == 200
        assert not (await operator.admin("/debug/faults/slow_outbox"))["active"]
        async with page.page.expect_response("**/api/faults/slow_outbox"):
            await switch.check()
        assert (await operator.admin("/debug/faults/slow_outbox"))["active"]
        async with page.page.expect_response("**/api/faults/slow_outbox"):
            await switch.uncheck()


async def test_an_event_that_comes_twice_is_shown_once(browser: Browser, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"faults": "drop_acks", "ack_timeout": 0.3}
    async with running(tmp_path, **settings) as program, tab(browser, program.url, "twice") as page:
        await page.link()
        async with api(program, "twice") as ledger, asyncio.timeout(15):
            while len((await ledger.ledger("bot-1"))[-1]["attempts"]) < 3:
                await asyncio.sleep(0.05)
        assert [row["seq"] for row in await page.rows()] == [1, 2]


async def test_the_page_outlives_the_backend(browser: Browser, tmp_path: Path) -> None:
    async with running(tmp_path) as old:
        port = int(old.url.rpartition(":")[2])
        async with tab(browser, old.url, "patient", expected=LEFT) as page:
            await page.link()
            await page.phone("scan")
            await page.state("connected")
            old.kill()
            await old.ended()
            await page.connection("reconnecting")
            await expect(page.at("#hero")).to_have_class("hero stale")
            async with running(tmp_path, port=port):
                await page.connection("connected")
                await page.state("connected")
                await expect(page.at("#hero")).not_to_have_class("hero stale")


async def test_with_tokens_the_page_asks_for_one(browser: Browser, tmp_path: Path) -> None:
    key = tokens.private_key("ES256")
    settings: dict[str, Any] = {"auth": "jwt", "jwt_public_key": tokens.public_pem(key)}
    # Chromium's words on an upgrade, or a last poll, of a session that a refusal has ended meanwhile
    refused = ("WebSocket connection to", "status of 400")
    async with running(tmp_path, **settings) as program, tab(browser, program.url, "unused", expected=refused) as page:
        field = page.page.get_by_label("Access token")
        await expect(field).to_be_visible()
        await expect(page.at("#headline")).to_have_text("Sign in")
        await expect(page.at("#sentence")).to_contain_text("Enter an access token")
        await expect(page.at("#problem")).to_be_hidden()  # nothing has gone wrong
        await expect(page.at("#connection-text")).to_have_text("Signed out")
        await expect(page.at("#user-field")).to_be_hidden()
        await expect(page.at("#faults")).to_be_hidden()
        await field.fill("nonsense")
        await page.page.keyboard.press("Enter")
        await page.connection("refused")
        await expect(page.at("#problem")).to_contain_text("This is not a token that can be read")
        await field.fill(tokens.token(key, algorithm="ES256", kid=None))
        await page.page.keyboard.press("Enter")
        await page.connection("connected")
        await page.link()
        assert "token" not in await page.page.evaluate("JSON.stringify(localStorage)")


async def test_another_users_token_is_another_connection(browser: Browser, tmp_path: Path) -> None:
    """Same bot id, other user: what is shown and what the buttons do are the same user's."""
    key = tokens.private_key("ES256")

    def token_of(user: str) -> str:
        return tokens.token(key, algorithm="ES256", kid=None, sub=user, exp=int(time.time()) + 600)

    settings: dict[str, Any] = {"auth": "jwt", "jwt_public_key": tokens.public_pem(key)}
    async with (
        running(tmp_path, **settings) as program,
        tab(browser, program.url, "unused", expected=LEFT) as page,
    ):
        field = page.page.get_by_label("Access token")
        await field.fill(token_of("ada"))
        await page.page.keyboard.press("Enter")
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        await page.at("#identity summary").click()
        await field.fill(token_of("bob"))
        await page.page.keyboard.press("Enter")
        await page.state("idle")  # bob has linked nothing
        await page.link()
        await page.phone("scan")
        await page.state("connected")
        rows = await page.rows()
        assert [row["seq"] for row in rows] == [1, 2, 3, 4], "nothing of ada's is left"


async def test_with_a_real_driver_there_is_no_phone_to_play(browser: Browser, tmp_path: Path) -> None:
    async with running(tmp_path, whatsapp_driver="neonize") as program, tab(browser, program.url, "real") as page:
        await page.state("idle")
        await expect(page.at("#phone")).to_be_hidden()
        await expect(page.at("#link")).to_be_visible()
