"""The reference at /docs in Chromium: rendered, under the strict policy, and the documents as they are shipped."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from tests.e2e.browser import WITHIN, chromium
from tests.support.inside import inside
from tests.support.program import ROOT
from tests.support.programs import require_package


@pytest.mark.slow
async def test_the_reference_is_rendered_and_the_documents_are_served(tmp_path: Path) -> None:
    require_package("swagger-ui-dist")
    async with inside(tmp_path) as program, chromium() as browser:
        page = await browser.new_page()
        troubles: list[str] = []
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                None
                if asked.url.startswith(program.url) or asked.url.startswith("data:")
                else troubles.append(asked.url)
            ),
        )
        answer = await page.goto(f"{program.url}/docs")
        assert answer is not None
        assert "unsafe" not in answer.headers["content-security-policy"]
        operation = page.locator("#http .opblock-summary-path").filter(has_text="/api/bots/{bot_id}/events")
        await expect(operation).to_be_visible(timeout=WITHIN)
        await expect(page.locator("#messages tbody tr").filter(has_text="whatsapp_qr_expired")).to_be_visible()
        await page.wait_for_load_state("networkidle")
        assert troubles == [], troubles
        async with aiohttp.ClientSession() as session:
            for name in ("openapi.json", "asyncapi.json"):
                async with session.get(f"{program.url}/docs/{name}") as response:
                    assert (response.status, response.content_type) == (200, "application/json")
                    assert await response.read() == (ROOT / "docs" / name).read_bytes()
            async with session.get(f"{program.url}/docs/..%2fsettings.py") as response:
                assert response.status == 404
