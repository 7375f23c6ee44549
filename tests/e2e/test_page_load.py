"""The first load: how much is fetched, how soon it can be used over a slow line, and that it is fetched once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, CDPSession, expect

from tests.e2e.browser import chromium
from tests.support.program import Program, running

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

FIRST_LOAD = 60_000
"""Bytes, headers included, of all files that the page fetches before it can be used."""

USABLE = 2.5
"""Seconds until an account can be linked, at 50 kB/s and 400 ms."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def program(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    async with running(tmp_path_factory.mktemp("data")) as started:
        yield started


NOTE = """addEventListener('DOMContentLoaded', () => {
  const button = document.getElementById('link');
  const note = () => {
    const usable = button.checkVisibility() && button.getAttribute('aria-disabled') === 'false';
    if (usable) globalThis.usableAt ??= performance.now();
  };
  new MutationObserver(note).observe(document, { attributes: true, subtree: true });
})"""
"""Writes down when the button could be pressed, in ms since the address was entered: polling would add to it."""


def watch(line: CDPSession) -> dict[str, int]:
    """The bytes of each file that is fetched from now on; a file from the cache has none."""
    names: dict[str, str] = {}
    sizes: dict[str, int] = {}
    line.on("Network.responseReceived", lambda it: names.update({it["requestId"]: it["response"]["url"]}))
    line.on(
        "Network.loadingFinished",
        lambda it: sizes.update({names.get(it["requestId"], ""): int(it["encodedDataLength"])}),
    )
    return sizes


async def usable(browser: Browser, program: Program, repeat: bool = False) -> tuple[float, dict[str, int]]:
    """Open the page over a slow line: the seconds until the button can be pressed, and the bytes of each file."""
    context = await browser.new_context()
    await context.add_init_script(NOTE)
    try:
        page = await context.new_page()
        for visit in range(2 if repeat else 1):
            line = await context.new_cdp_session(page)
            await line.send("Network.enable")
            conditions = {"offline": False, "latency": 400, "downloadThroughput": 50_000, "uploadThroughput": 50_000}
            await line.send("Network.emulateNetworkConditions", conditions)
            sizes = watch(line)
            await page.goto(f"{program.url}/" if visit == 0 else f"{program.url}/?again", wait_until="commit")
            await expect(page.locator("#hero")).to_have_attribute("data-state", "idle", timeout=20_000)
            await expect(page.locator("#link")).to_have_attribute("aria-disabled", "false")
            took = await page.evaluate("usableAt") / 1000
            await page.wait_for_load_state("networkidle")
            await line.detach()
        return took, sizes
    finally:
        await context.close()


@pytest.mark.alone
async def test_the_first_load_is_small_and_soon_usable(browser: Browser, program: Program) -> None:
    took, sizes = min([await usable(browser, program) for _ in range(2)])  # the better of two: machines are busy
    print(f"usable after {took:.2f} s, {sum(sizes.values())} bytes in {len(sizes)} files")
    assert sum(sizes.values()) <= FIRST_LOAD, sizes
    assert took <= USABLE, sizes


async def test_a_second_visit_fetches_no_file_again(browser: Browser, program: Program) -> None:
    _, sizes = await usable(browser, program, repeat=True)
    assert [url for url, size in sizes.items() if "/static/" in url and size] == []


async def test_files_have_validators_and_are_compressed(program: Program) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def get(path: str, **headers: str) -> tuple[int, Any, bytes]:
            async with session.get(program.url + path, headers={"Accept-Encoding": "gzip", **headers}) as response:
                return response.status, response.headers, await response.read()

        status, headers, body = await get("/")
        assert (status, headers["Content-Encoding"], headers["Cache-Control"]) == (200, "gzip", "no-cache")
        assert headers["ETag"]
        assert (await get("/", **{"If-None-Match": headers["ETag"]}))[0] == 304
        _, plain, whole = await get("/", **{"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain
        assert plain["ETag"] != headers["ETag"]
        assert plain["Vary"] == "Accept-Encoding"
        assert len(body) < len(whole) / 2
        versioned = whole.decode().split('src="')[1].split('"')[0]
        assert versioned.startswith("/static/")
        _, headers, _ = await get(versioned)
        assert "immutable" in headers["Cache-Control"]
        _, headers, _ = await get("/static/main.js")
        assert headers["Cache-Control"] == "no-cache"
        status, _, _ = await get("/static/000000000000/main.js")
        assert status == 404
