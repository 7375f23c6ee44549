"""The typed client in Chromium: the page from a file, the React hook in React, the Vue composable in Vue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page, expect

from tests.clients.build import built
from tests.e2e.browser import WITHIN, chromium
from tests.support.inside import inside
from tests.support.programs import require_package

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser")]

HEAD = """<!doctype html><meta charset="utf-8"><script type="importmap">{"imports": {
  "roundtrip-client": "/dist/index.js", "roundtrip-client/react": "/dist/react.js",
  "roundtrip-client/vue": "/dist/vue.js", "socket.io-client": "/npm/socket.io-client/dist/socket.io.esm.min.js",
  "react": "/cjs/react", "react-dom/client": "/cjs/react-dom/client",
  "vue": "/npm/vue/dist/vue.runtime.esm-browser.prod.js"
}}</script><div id="app"></div><script type="module">
const url = new URLSearchParams(location.search).get("url");
"""

REACT = """
import { createElement as h, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useRoundtrip } from "roundtrip-client/react";
let renders = 0;
function App() {
  const [botId, setBot] = useState("one");
  const { status, snapshot, events, client } = useRoundtrip({ url, botId, userId: "ada", onEvent: () => {} });
  if (snapshot && snapshot.botId !== botId) document.title = "another bot's snapshot";
  globalThis.renders = renders += 1;
  return h("main", null, h("p", { id: "state" }, `${botId} ${status} ${snapshot?.state ?? "unknown"} ${events.length}`),
    h("button", { id: "link", onClick: () => client.link() }, "Link"),
    h("button", { id: "other", onClick: () => setBot("two") }, "Other"));
}
const root = createRoot(document.getElementById("app"));
root.render(h(StrictMode, null, h(App)));
globalThis.leave = () => root.unmount();
"""

VUE = """
import { createApp, h, ref } from "vue";
import { useRoundtrip } from "roundtrip-client/vue";
const app = createApp({
  setup() {
    const botId = ref("one");
    const { state, client } = useRoundtrip(() => ({ url, botId: botId.value, userId: "ada" }));
    return () => {
      const { status, snapshot, events } = state.value;
      if (snapshot && snapshot.botId !== botId.value) document.title = "another bot's snapshot";
      const text = `${botId.value} ${status} ${snapshot?.state ?? "unknown"} ${events.length}`;
      return h("main", [h("p", { id: "state" }, text),
        h("button", { id: "link", onClick: () => client.value.link() }, "Link"),
        h("button", { id: "other", onClick: () => (botId.value = "two") }, "Other")]);
    };
  },
});
app.mount("#app");
globalThis.leave = () => app.unmount();
"""

COMMONJS = {
    "react": "react/cjs/react.production.js",
    "react-dom": "react-dom/cjs/react-dom.production.js",
    "react-dom/client": "react-dom/cjs/react-dom-client.production.js",
    "scheduler": "scheduler/cjs/scheduler.production.js",
}


def as_module(name: str) -> str:
    """React has no modules for browsers: its CommonJS files as one."""
    folder = require_package("react-dom").parent
    files = ",\n".join(
        f"{key!r}: (exports, require, module) => {{\n{(folder / path).read_text()}\n}}"
        for key, path in COMMONJS.items()
    )
    names = "createElement, StrictMode, useState, useEffect, useMemo, useRef, useSyncExternalStore"
    return f"""const files = {{{files}}};
    const made = globalThis.commonjs ??= {{}};
    const require = (name) => {{
      if (!made[name]) {{
        const module = made[name] = {{ exports: {{}} }};
        files[name](module.exports, require, module);
      }}
      return made[name].exports;
    }};
    export const {{ {names if name == "react" else "createRoot"} }} = require({name!r});"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@asynccontextmanager
async def development_server() -> AsyncIterator[str]:
    """A page's own server, as Vite's would be: another port than the backend's."""

    async def page(request: web.Request) -> web.Response:
        script = {"react": REACT, "vue": VUE}[request.match_info["name"]]
        return web.Response(text=f"{HEAD}{script}</script>", content_type="text/html")

    async def commonjs(request: web.Request) -> web.Response:
        return web.Response(text=as_module(request.match_info["name"]), content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/page/{name}", page)
    app.router.add_get("/cjs/{name:.+}", commonjs)
    app.router.add_static("/dist", built() / "dist")
    app.router.add_static("/npm", require_package("vue").parent)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def opened(browser: Browser, address: str) -> AsyncIterator[Page]:
    page = await browser.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    try:
        await page.goto(address)
        yield page
        assert troubles == [], troubles
    finally:
        await page.close()


@pytest.mark.parametrize("framework", ["react", "vue"])
async def test_a_component_follows_its_bot_and_leaves_no_socket_behind(
    browser: Browser, tmp_path: Path, framework: str
) -> None:
    async with (
        inside(tmp_path, simulated_scan_after=0.1) as program,
        development_server() as server,
        opened(browser, f"{server}/page/{framework}?url={program.url}") as page,
    ):
        state = page.locator("#state")
        await expect(state).to_have_text("one live idle 0", timeout=WITHIN)
        await page.locator("#link").click()
        await expect(state).to_have_text("one live connected 4", timeout=WITHIN)
        await page.locator("#other").click()
        await expect(state).to_have_text("two live idle 0", timeout=WITHIN)
        assert await page.title() == ""  # at no render was the first bot's snapshot the second one's
        sockets = (await program.user("ada").admin("/debug/sockets"))["keys"]
        assert [key["botId"] for key in sockets] == ["two"]
        await page.evaluate("leave()")
        for _ in range(500):
            if not (await program.user("ada").admin("/debug/sockets"))["totals"]["sockets"]:
                break
            await page.wait_for_timeout(10)
        else:
            pytest.fail("the component left its socket behind")


async def test_the_example_opens_from_a_file(browser: Browser, tmp_path: Path) -> None:
    address = (built() / "example.html").as_uri()
    async with (
        inside(tmp_path, simulated_scan_after=0.1, cors_origins=("null",)) as program,
        opened(browser, f"{address}?url={program.url}&user=ada&bot=file") as page,
    ):
        await expect(page.locator("#state")).to_have_text("idle (live)", timeout=WITHIN)
        await page.locator("#link").click()
        await expect(page.locator("#state")).to_have_text("connected (live)", timeout=WITHIN)
        await expect(page.locator("#events > li")).to_have_count(4)
        await page.locator("#log-out").click()
        await expect(page.locator("#state")).to_have_text("logged_out (live)", timeout=WITHIN)
