"""Each named fault, switched on by the console's own page: the verdict names the cause, a click leads to the event,
whose waterfall shows what failed; switched off, the verdict recovers."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.e2e.browser import WITHIN, chromium
from tests.e2e.console import Console, console
from tests.support.program import ROOT, Api, Program, api, running
from tests.support.py_client import PyClient, py_client

pytestmark = [pytest.mark.slow, pytest.mark.waits(20)]

NAMED_WITHIN = 3.0
"""Seconds from what went wrong to the sentence that names it."""

ACK_TIMEOUT = 1.0


class Stage:
    """A program, its console, and one user."""

    def __init__(self, program: Program, seen: Console, user: Api, stack: AsyncExitStack) -> None:
        self.program = program
        self.console = seen
        self.user = user
        self._stack = stack

    async def page(self, bot: str = "bot", *, acking: bool = True, stack: AsyncExitStack | None = None) -> PyClient:
        """A stock client that stays until the end, or until its `stack` ends."""
        client = py_client(self.program.url, "ada", bot, acking=acking, acks=acking)
        return await (stack or self._stack).enter_async_context(client)

    async def named(self, cause: str, within: float = NAMED_WITHIN) -> None:
        """The verdict names a cause in time; its link is followed."""
        began = time.monotonic()
        found = await self.console.verdict(cause, within)
        print(f"{cause}: {time.monotonic() - began:.1f} s, {await found.inner_text()}")
        await found.get_by_role("link", name="Show").click()

    async def failing_attempt(self, reason: str) -> None:
        """The event's waterfall shows an attempt that failed, with its reason among the attributes."""
        failed = self.console.at(f'.span-failed[data-error="{reason}"]').first
        await expect(failed).to_be_visible(timeout=WITHIN)
        assert (await failed.get_attribute("data-name") or "").startswith("emit whatsapp_")
        await expect(self.console.at(f'.step-missed, [data-reason="{reason}"]').first).to_be_visible()
        body = self.console.at(".span-body").last
        await expect(body).to_contain_text("roundtrip.miss.reason")
        await expect(body).to_contain_text(reason)

    async def recovers(self, within: float = 30) -> None:
        """All is well, or nothing is but what a machine with too much to do brings itself: a loop that is late."""
        well = self.console.at('.verdict[data-level="ok"], .verdict[data-cause="loop_blocked"]')
        await expect(well).to_be_visible(timeout=within * 1000)


@asynccontextmanager
async def stage(folder: Path, **settings: float) -> AsyncIterator[Stage]:
    options: dict[str, Any] = {"disconnect_grace": 0.1, "ack_timeout": ACK_TIMEOUT, "simulated_speed": 5} | settings
    async with (
        AsyncExitStack() as stack,
        running(folder, **options) as program,
        api(program, "ada") as user,
        chromium() as browser,
        console(browser, program.admin_url) as seen,
    ):
        await seen.open()
        async with stack:
            yield Stage(program, seen, user, stack)


async def key_mismatch(it: Stage) -> None:
    async with AsyncExitStack() as first:
        await it.page(stack=first)
        await it.console.switch("key_mismatch", on=True)
        await it.user.link()
        await it.named("key_mismatch")
        await it.failing_attempt("key_mismatch")
        shown = it.console.at(".difference").first
        await expect(shown).to_contain_text("ada")
        await expect(shown.locator("mark").first).to_be_visible()
        await it.console.switch("key_mismatch", on=False)
    await it.page()


async def stale_cleanup(it: Stage) -> None:
    await it.console.switch("stale_cleanup", on=True)
    async with AsyncExitStack() as newer, AsyncExitStack() as older:
        await it.page(stack=older)
        await it.page(stack=newer)
        await older.aclose()
        await it.user.link()
        await it.named("send_failed")
        await it.failing_attempt("send_failed")
        await it.console.switch("stale_cleanup", on=False)
    await it.page()


async def drop_acks(it: Stage) -> None:
    await it.page()
    await it.console.switch("drop_acks", on=True)
    await it.user.link()
    await it.named("acks_missing", ACK_TIMEOUT + NAMED_WITHIN)
    await it.failing_attempt("ack_timeout")
    await it.console.switch("drop_acks", on=False)


async def drop_receipts(it: Stage) -> None:
    async with AsyncExitStack() as first:
        await it.page(acking=False, stack=first)
        await it.console.switch("drop_receipts", on=True)
        await it.user.link()
        await it.named("receipts_missing", ACK_TIMEOUT + NAMED_WITHIN)
        await it.failing_attempt("ack_timeout")
        await it.console.switch("drop_receipts", on=False)
    await it.page()


async def early_disconnect(it: Stage) -> None:
    await it.console.switch("early_disconnect", on=True, parameter=50)
    for _ in range(4):
        async with AsyncExitStack() as short:
            page = await it.page(stack=short)
            await page.until(lambda page=page: not page.io.connected)  # type: ignore[misc]  # bound now
    await it.user.link()
    await it.console.verdict("socket_churn", NAMED_WITHIN)
    await it.named("just_disconnected")
    await it.failing_attempt("just_disconnected")
    await it.console.switch("early_disconnect", on=False)
    await it.page()


async def slow_outbox(it: Stage) -> None:
    page = await it.page()
    await it.console.switch("slow_outbox", on=True, parameter=0.6)
    await it.user.link()
    await it.named("outbox_slow")
    slow = it.console.at('[data-name^="create whatsapp_"] .span-time').first
    await expect(slow).to_contain_text("ms", timeout=WITHIN)
    took = await slow.inner_text()
    seconds = float(took.split("·")[1].split()[0]) / (1000 if took.endswith("ms") else 1)
    assert seconds >= 0.5, took
    await it.console.switch("slow_outbox", on=False)
    await page.count(2)


async def outbox_down(it: Stage) -> None:
    await it.console.switch("outbox_down", on=True)
    status, problem = await it.user.call("PUT", "/api/bots/bot/link")
    assert (status, problem["code"]) == (503, "outbox_unavailable")
    found = await it.console.verdict("outbox_failing", NAMED_WITHIN)
    # A readiness check may have noticed it before the request did
    await expect(found.get_by_role("link")).to_have_attribute("href", re.compile("/console/traces/"), timeout=3000)
    await it.named("outbox_failing")
    failed = it.console.at('.span-failed[data-name^="PUT "]')
    await failed.get_by_role("button").click()
    await expect(it.console.at(".span-body")).to_contain_text("503")
    await it.console.switch("outbox_down", on=False)


async def whatsapp_flap(it: Stage) -> None:
    await it.page()
    await it.user.link()
    await it.user.state("qr")
    await it.user.simulate("scan")
    await it.user.state("connected")
    before = (await it.user.metrics())["roundtrip_link_flaps_total"]
    await it.console.switch("whatsapp_flap", on=True, parameter=0.3)
    async with asyncio.timeout(20):
        while (await it.user.metrics())["roundtrip_link_flaps_total"] - before < 3:  # as the alert wants it
            await asyncio.sleep(0.1)
    await it.named("link_flapping")
    await expect(it.console.at("main h1")).to_contain_text("Link of ada")
    told = it.console.at("table a").filter(has_text="whatsapp_degraded").first
    await expect(told).to_be_visible(timeout=WITHIN)  # that a link flaps is told once
    await told.click()
    await expect(it.console.at('[data-name="create whatsapp_degraded"]')).to_be_visible(timeout=WITHIN)
    await it.console.switch("whatsapp_flap", on=False)


FAULTS: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    key_mismatch,
    stale_cleanup,
    drop_acks,
    drop_receipts,
    early_disconnect,
    slow_outbox,
    outbox_down,
    whatsapp_flap,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_verdict_names_the_cause_and_recovers(
    fault: Callable[[Stage], Awaitable[None]], tmp_path: Path
) -> None:
    async with stage(tmp_path, flap_limit=3) as it:
        await fault(it)
        await it.recovers()


async def test_from_make_run_to_the_sentence_with_a_page_under_another_bot_id(tmp_path: Path) -> None:
    """The failure that this project is about, without any fault: a stock client says bot-2, the caller bot-1."""
    recipe = re.search(r"^run:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    command = recipe[1].replace("$(BIN)/roundtrip", f"{sys.executable} -m backend").strip()
    async with (
        running(tmp_path, command=("bash", "-c", command)) as program,
        api(program, "ada") as user,
        py_client(program.url, "ada", "bot-2", acks=True) as page,
        chromium() as browser,
        console(browser, program.admin_url) as seen,
    ):
        assert f"open {program.url} in a browser" in program.text()
        assert f"{program.admin_url} is the console" in program.text()
        await seen.open()
        await expect(seen.at(".verdict")).to_have_attribute("data-level", "ok", timeout=WITHIN)
        await user.link("bot-1")
        found = await seen.verdict("key_mismatch", NAMED_WITHIN)
        await expect(found).to_contain_text("ada is connected as bot-2, events go to bot-1")
        await found.get_by_role("link", name="Show").click()
        await expect(seen.at('.span-failed[data-error="key_mismatch"]').first).to_be_visible(timeout=WITHIN)
        await expect(seen.at(".difference mark").first).to_have_text("1")
        assert page.events == []
        async with py_client(program.url, "ada", "bot-1", acks=True) as cured:
            await cured.count(1)
            await expect(seen.at(".verdict")).to_have_attribute("data-level", "ok", timeout=WITHIN)
