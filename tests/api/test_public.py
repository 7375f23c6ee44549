from __future__ import annotations

from pathlib import Path

from roundtrip.api.page import VENDOR, WEB, Page
from roundtrip.api.public import PublicParts
from tests.support.api import Api


async def test_the_page_and_its_files(served: Api) -> None:
    status, text, headers = await served.call("GET", "/", user=None)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<title>" in text
    for path in WEB.glob("*.js"):
        status, _, headers = await served.call("GET", f"/static/{path.name}", user=None)
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8"), path.name


async def test_no_other_file_can_be_reached(served: Api) -> None:
    assert (WEB.parent / "settings.py").is_file()
    assert (WEB.parent.parent / "__main__.py").is_file()
    for name in ("..%2fsettings.py", "..%2f..%2f__main__.py", "%2Fetc%2Fpasswd", "nothing.js", "%00", "__init__.py"):
        for folder in ("static", "static/vendor"):
            status, _, _ = await served.call("GET", f"/{folder}/{name}", user=None)
            assert status == 404, name


async def test_the_strict_headers(served: Api) -> None:
    _, _, headers = await served.call("GET", "/", user=None)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers


def test_the_page_keeps_to_its_policy() -> None:
    """No inline script or style, nothing from elsewhere."""
    for path in WEB.glob("*.html"):
        text = path.read_text()
        assert "<script>" not in text
        assert "<style" not in text
        assert "style=" not in text
        assert " on" not in "".join(line for line in text.splitlines() if "onclick" in line)
    for path in (*WEB.glob("*.js"), *WEB.glob("*.css"), *WEB.glob("*.html")):
        text = path.read_text()
        assert "https://" not in text.replace("https://wa.me", "").replace("https://faq.whatsapp.com", ""), path.name
        assert "innerHTML" not in text, path.name


async def test_libraries_come_from_npm_and_their_absence_is_said(tmp_path: Path) -> None:
    assert PublicParts.__dataclass_fields__["page"]
    from aiohttp import web

    from roundtrip.api.middleware import RequestGuard
    from tests.support.api import serving

    folder = tmp_path / "node_modules"
    path = folder / VENDOR["qrcode.mjs"]
    path.parent.mkdir(parents=True)
    path.write_text("export default 1;")
    app = web.Application()
    RequestGuard().install(app)
    Page(WEB, folder).add(app)
    import aiohttp

    async with serving(app) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/static/vendor/qrcode.mjs") as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
        async with session.get(f"{url}/static/vendor/socket.io.esm.min.js") as response:
            assert response.status == 404
            assert (await response.json(content_type=None))["code"] == "page_libraries_missing"
        async with session.get(f"{url}/") as response:
            assert response.status == 503
            text = await response.text()
            assert "npm ci" in text
            assert VENDOR["socket.io.esm.min.js"] in text
            assert VENDOR["qrcode.mjs"] not in text
