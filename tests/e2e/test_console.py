"""The console's page: reading, searching, staying live, logging in, and what hostile names do to it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.e2e.browser import PHONE, WITHIN, chromium
from tests.e2e.console import console
from tests.support.program import Program, api, running
from tests.support.py_client import py_client

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("console")]

VIEWS = ("Overview", "Misses", "Traces", "Sockets", "Links", "Health", "Faults")

HOSTILE = (
    '<img src=x onerror="throw Error(1)">',
    '"><script>throw Error(2)</script>',
    "\u202etfel-ot-thgir \u05e9\u05dc\u05d5\u05dd",
    "\U0001f9d1\u200d\U0001f680\U0001d54f",
    "W" * 128,
    "{{7*7}}${7*7}javascript:alert(1)",
)
"""Markup, writing from right to left, four-byte characters, and the longest id there may be."""

KEY = "an admin key that is long enough"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    async with running(tmp_path_factory.mktemp("data"), disconnect_grace=0.1, simulated_speed=5) as started:
        yield started


async def mismatch(program: Program, user: str, stack: AsyncExitStack, bot: str = "bot-1", other: str = "bot-2") -> str:
    """A page under another bot id than the link's; the id of the newest missed event."""
    await stack.enter_async_context(py_client(program.url, user, other, acks=True))
    it = await stack.enter_async_context(api(program, user))
    status, answer = await it.call("PUT", f"/api/bots/{bot}/link")
    assert status == 202, answer
    await it.state("qr", bot)
    return str((await it.ledger(bot))[-1]["id"])


async def test_every_view_is_sound_reloadable_and_without_serious_findings(browser: Browser, program: Program) -> None:
    async with AsyncExitStack() as stack:
        event = await mismatch(program, "views", stack)
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            async with console(browser, program.admin_url, scheme=scheme) as seen:
                await seen.open()
                for view in VIEWS:
                    await seen.view(view)
                    assert await seen.axe() == [], (scheme, view)
                    await seen.page.reload()
                    await expect(seen.at("main h1")).to_have_text(view, timeout=WITHIN)
                await seen.open(f"/console/events/{event}")
                await expect(seen.at(".span-failed").first).to_be_visible(timeout=WITHIN)
                assert await seen.axe() == [], (scheme, "event")
                trace = seen.at(".waterfall h3 a").first
                await trace.click()
                await expect(seen.at("main h1")).to_contain_text("Trace", timeout=WITHIN)
                await expect(seen.at(".span").first).to_be_visible(timeout=WITHIN)
                assert await seen.axe() == [], (scheme, "trace")


async def test_it_fits_a_telephone(browser: Browser, program: Program) -> None:
    async with AsyncExitStack() as stack:
        event = await mismatch(program, "w" * 128, stack, "b" * 128, "c" * 128)
        async with console(browser, program.admin_url, size=PHONE) as seen:
            await seen.open()
            for view in VIEWS:
                await seen.view(view)
                await seen.page.wait_for_timeout(300)  # what is fetched is there by then
                assert await seen.overflow() <= 0, view
            await seen.open(f"/console/events/{event}")
            await expect(seen.at(".span-failed").first).to_be_visible(timeout=WITHIN)
            assert await seen.overflow() <= 0


async def test_the_keyboard_is_enough(browser: Browser, program: Program) -> None:
    async with AsyncExitStack() as stack:
        event = await mismatch(program, "keys", stack)
        async with console(browser, program.admin_url) as seen:
            await seen.open()
            keyboard = seen.page.keyboard
            for _ in range(15):
                await keyboard.press("Tab")
                if await seen.page.evaluate("document.activeElement.id") == "search":
                    break
            else:
                pytest.fail("the keyboard does not reach the search field")
            await keyboard.type(event)
            await keyboard.press("Enter")
            await expect(seen.at("main h1")).to_have_text("whatsapp_qr", timeout=WITHIN)
            assert await seen.page.evaluate("document.activeElement.tagName") == "H1", "the new view has the focus"
            for _ in range(15):
                await keyboard.press("Tab")
                if await seen.page.evaluate("document.activeElement.closest('.span') !== null"):
                    break
            else:
                pytest.fail("the keyboard does not reach the spans")
            expanded = "document.activeElement.getAttribute('aria-expanded')"
            before = await seen.page.evaluate(expanded)
            await keyboard.press("Enter")
            await expect(seen.at(".span-body")).to_have_count(1 if before == "false" else 0)


async def test_the_search_finds_what_one_pastes(browser: Browser, program: Program) -> None:
    async with AsyncExitStack() as stack:
        event = await mismatch(program, "searched", stack)
        it = await stack.enter_async_context(api(program, "searched"))
        link = (await it.snapshot("bot-1"))["linkId"]
        trace = (await it.admin(f"/debug/events/{event}"))["traceId"]
        hash_ = (await it.admin("/debug/console.json"))["misses"]["newest"][0]["keyHash"]
        async with console(browser, program.admin_url) as seen:
            await seen.open()
            for text, heading in (
                (event.upper(), "whatsapp_qr"),
                (trace, f"Trace {trace}"),
                (f"00-{trace}-{1:016x}-01", f"Trace {trace}"),
                (link, "Link of searched · bot-1"),
            ):
                await seen.at("#search").fill(text)
                await seen.at("#search").press("Enter")
                await expect(seen.at("main h1")).to_have_text(heading, timeout=WITHIN)
            for text, kind in (("searched", "link"), ("searched", "socket"), (hash_, "key")):
                await seen.at("#search").fill(text)
                await seen.at("#search").press("Enter")
                hit = seen.at(".hits a").filter(has_text=kind).first
                await expect(hit).to_be_visible(timeout=WITHIN)
            await hit.click()
            await expect(seen.at("main h1")).to_have_text("Traces", timeout=WITHIN)
            await expect(seen.at("main table")).to_contain_text("key_mismatch", timeout=WITHIN)
            await seen.at("#search").fill("no such thing")
            await seen.at("#search").press("Enter")
            await expect(seen.at(".hits")).to_have_text("Nothing here has this id.", timeout=WITHIN)


async def test_hostile_names_are_shown_and_do_nothing(browser: Browser, program: Program) -> None:
    async with AsyncExitStack() as stack:
        # A printable id of each kind; those that the backend refuses cannot reach the console
        events = []
        for n, name in enumerate(HOSTILE):
            try:
                await stack.enter_async_context(py_client(program.url, f"hostile-{n}", name, acks=True))
            except Exception:  # noqa: BLE001, S112  # refused by the handshake: no printable text
                continue
            it = await stack.enter_async_context(api(program, f"hostile-{n}"))
            await it.link("bot")
            await it.state("qr", "bot")
            events.append(((await it.ledger("bot"))[-1]["id"], name))
        assert len(events) >= 4
        async with console(browser, program.admin_url) as seen:
            await seen.open()
            for view in ("Misses", "Sockets", "Links"):
                await seen.view(view)
                await seen.page.wait_for_timeout(300)
            await seen.view("Misses")
            for event, name in events:
                group = seen.at(".miss").filter(has=seen.page.locator(f'a[href$="{event}"]'))
                assert name in await group.locator(".difference dd").last.inner_text()
                await seen.open(f"/console/events/{event}")
                await expect(seen.at(".difference").first).to_be_visible(timeout=WITHIN)
                assert await seen.overflow() <= 0
                await seen.page.go_back()
                await expect(seen.at("main h1")).to_have_text("Misses", timeout=WITHIN)
            assert await seen.at("main img, main script, #app iframe").count() == 0


async def test_a_miss_is_told_at_once_and_a_background_tab_hears_nothing(browser: Browser, program: Program) -> None:
    async with AsyncExitStack() as stack, console(browser, program.admin_url) as seen:
        await seen.open("/console/misses")
        await mismatch(program, "live", stack)
        row = seen.at("table tr").filter(has_text="live · bot-1").first
        await expect(row).to_be_visible(timeout=1500)
        hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        hide += " document.dispatchEvent(new Event('visibilitychange')); }"
        it = await stack.enter_async_context(api(program, "live"))

        async def consoles() -> int:
            return int((await it.admin("/debug/console.json"))["totals"]["consoles"])

        before = await consoles()
        await seen.page.evaluate(hide, True)
        async with asyncio.timeout(10):
            while await consoles() >= before:
                await asyncio.sleep(0.1)
        await mismatch(program, "unseen", stack)
        unseen = seen.at("table tr").filter(has_text="unseen · bot-1").first
        await expect(unseen).to_have_count(0)
        await seen.page.evaluate(hide, False)
        await expect(unseen).to_be_visible(timeout=WITHIN)


async def test_it_says_when_it_is_stale_and_catches_up_without_a_reload(browser: Browser, tmp_path: Path) -> None:
    lost = ("Failed to load resource", "net::ERR")
    async with AsyncExitStack() as first, console(browser, "http://127.0.0.1", expected=lost) as seen:
        program = await first.enter_async_context(running(tmp_path))
        port = int(program.admin_url.rsplit(":", 1)[1])
        seen.url = program.admin_url
        await seen.open()
        await seen.page.evaluate("window.same = true")
        program.terminate()
        await first.aclose()
        await expect(seen.at(".status")).to_have_attribute("data-status", "stale", timeout=15_000)
        await expect(seen.at(".status")).to_contain_text(re.compile(r"nothing heard for \d+ s"))
        async with running(tmp_path, admin_port=port):
            await seen.live()
            assert await seen.page.evaluate("window.same")


async def test_with_a_key_one_logs_in_changes_and_logs_out(browser: Browser, tmp_path: Path) -> None:
    refused = ("Failed to load resource",)
    async with (
        running(tmp_path, ready=False, admin_key=KEY) as program,
        console(browser, "", expected=refused) as seen,
    ):
        async with asyncio.timeout(20):
            while not program.admin_url:
                await asyncio.sleep(0.05)
        seen.url = program.admin_url
        await seen.page.goto(f"{seen.url}/debug/sockets")  # a browser is sent on to the page, which asks for the key
        assert seen.page.url == f"{seen.url}/console/sockets"
        field = seen.page.get_by_label("Admin key")
        await expect(field).to_be_visible(timeout=WITHIN)
        assert await seen.axe() == []
        await field.fill("not the key")
        await field.press("Enter")
        await expect(seen.at(".problem")).to_have_text("This is not the admin key.", timeout=WITHIN)
        await field.fill(KEY)
        await field.press("Enter")
        await seen.live()
        await expect(seen.at("main h1")).to_have_text("Sockets")
        (cookie,) = await seen.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert 0 < cookie["expires"] - time.time() <= 8 * 3600
        await seen.switch("drop_acks", on=True)
        await seen.switch("drop_acks", on=False)
        await seen.page.reload()
        await seen.live()
        await seen.page.get_by_role("button", name="Log out").click()
        await expect(field).to_be_visible(timeout=WITHIN)
        await seen.page.goto(f"{seen.url}/console/health")
        await expect(field).to_be_visible(timeout=WITHIN)
