"""The trace ends in the browser: what the page did with an event is the last span of the event's trace."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Route, expect

from tests.e2e.browser import WITHIN, chromium, tab
from tests.support.program import api, running

pytestmark = pytest.mark.slow

STORY = ["PUT /api/bots/{bot_id}/link", "link start", "create *", "emit *", "ack *", "process *"]


async def one_trace(session: aiohttp.ClientSession, admin_url: str, event: str, within: float = 10) -> dict[str, Any]:
    """The spans of an event's trace by their names, once the page's is among them."""
    async with asyncio.timeout(within):
        while True:
            async with session.get(f"{admin_url}/debug/console/events/{event}") as response:
                spans = (await response.json())["traces"]["spans"]
            named = {span["name"]: span for span in spans}
            if any(name.startswith("process ") for name in named):
                return named
            await asyncio.sleep(0.1)


async def test_from_the_request_to_the_page_in_one_trace(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(chromium())
        program = await stack.enter_async_context(running(tmp_path, browser_traces=True))
        user = await stack.enter_async_context(api(program, "traced"))
        async with tab(browser, program.url, "traced") as page:
            await page.link()
            events = await user.ledger("bot-1")
            async with aiohttp.ClientSession() as session:
                named = await one_trace(session, program.admin_url, events[0]["id"])
            type_ = "whatsapp_connecting"
            story = [named[part.replace("*", type_)] for part in STORY]
            assert len({span["traceId"] for span in story}) == 1
            create, process = story[2], story[5]
            assert process["parentId"] == create["spanId"]
            assert (process["kind"], process["service"]) == ("CONSUMER", "roundtrip-page")
            assert process["attributes"]["roundtrip.page.visibility"] == "visible"
            assert process["attributes"]["roundtrip.attempt.mode"] == "live"
            assert create["start"] <= process["start"] + 5_000, "the page's clock is this machine's"
            assert (await user.metrics())['roundtrip_page_spans_total{result="accepted"}'] >= 1

            console = await page.page.context.new_page()
            await console.goto(f"{program.admin_url}/console/events/{events[0]['id']}")
            await expect(console.locator('[data-kind="process"]')).to_contain_text(
                "a page processed it", timeout=WITHIN
            )
            await expect(console.locator(f'[data-name="process {type_}"]')).to_be_visible(timeout=WITHIN)


async def test_a_page_whose_spans_are_refused_goes_on_and_asks_no_more(tmp_path: Path) -> None:
    asked = 0

    async def refuse(route: Route) -> None:
        nonlocal asked
        asked += 1
        await route.fulfill(status=403)

    refused = "Failed to load resource"
    async with AsyncExitStack() as stack:
        browser = await stack.enter_async_context(chromium())
        program = await stack.enter_async_context(running(tmp_path, browser_traces=True))
        async with tab(browser, program.url, "refused", expected=[refused]) as page:
            await page.page.route("**/otlp/**", refuse)
            async with page.page.expect_response("**/otlp/v1/traces"):
                await page.link()
            await page.phone("scan")
            await page.state("connected")
            await page.page.wait_for_timeout(1500)  # longer than the page gathers spans for
            assert asked == 1


async def test_a_page_sends_nothing_where_nobody_wants_it(tmp_path: Path) -> None:
    async with chromium() as browser, running(tmp_path) as program, tab(browser, program.url, "quiet") as page:
        asked: list[str] = []
        page.page.on("request", lambda request: asked.append(request.url))
        await page.link()
        await page.page.wait_for_timeout(1500)
        assert not [url for url in asked if "otlp" in url or "spans.js" in url]
