"""Serves the console's page: plain modules, and libraries from the locked `node_modules`. It holds no data."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from roundtrip.api.libraries import MISSING, NODE_MODULES, library
from roundtrip.api.problems import Problem

FOLDER: Final = Path(__file__).resolve().parents[2] / "web" / "console"

VENDOR: Final = {
    "preact.mjs": "preact/dist/preact.mjs",
    "htm.mjs": "htm/dist/htm.mjs",
    "uplot.js": "uplot/dist/uPlot.esm.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
}
"""Libraries by their served name; paths are within `node_modules`."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No inline script or style, nothing from elsewhere, and no text that becomes markup."""

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class ConsolePage:
    """The page at `/` and at each view's address under `/console/`, its files at `/static/…` and `/vendor/…`."""

    def __init__(self, folder: Path = FOLDER, node_modules: Path = NODE_MODULES) -> None:
        self._files = {path.name: path for path in folder.glob("*") if path.suffix in _TYPES}
        self._vendor = {name: library(path, node_modules) for name, path in VENDOR.items()}

    def add(self, app: web.Application) -> None:
        app.router.add_get("/", self._index)
        app.router.add_get("/console/{view:.*}", self._index)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/vendor/{name}", self._library)

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        missing = [path for name, path in VENDOR.items() if not self._vendor[name].is_file()]
        if missing:
            return web.Response(text=MISSING.format(names=", ".join(missing)), status=503, content_type="text/html")
        return _file(self._files.get("index.html"))

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return _file(self._files.get(request.match_info["name"]))

    async def _library(self, request: web.Request) -> web.StreamResponse:
        path = self._vendor.get(request.match_info["name"])
        if path is not None and not path.is_file():
            raise Problem("page_libraries_missing", "The console's libraries are not installed: run `npm ci`.", 404)
        return _file(path)


def _file(path: Path | None) -> web.StreamResponse:
    if path is None:
        raise Problem("not_found", "There is nothing at this address.", 404)
    headers = {"Content-Type": _TYPES[path.suffix], "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    return web.FileResponse(path, headers=headers)
