"""The page and the libraries it loads: one table of files, nothing else of the disk is reachable."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

from backend.api.problems import Problem

_HERE: Final = Path(__file__).resolve().parent.parent
WEB: Final = _HERE / "web"
NODE_MODULES: Final = _HERE.parent.parent / "node_modules"

VENDOR: Final = {
    "socket.io.esm.min.js": "socket.io-client/dist/socket.io.esm.min.js",
    "socket.io.esm.min.js.map": "socket.io-client/dist/socket.io.esm.min.js.map",
    "qrcode.mjs": "qrcode-generator/dist/qrcode.mjs",
}

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


class Page:
    """Serves `/`, `/static/…` and `/vendor/…`."""

    def __init__(self, web_folder: Path = WEB, node_modules: Path = NODE_MODULES) -> None:
        self._files = {path.name: path for path in web_folder.glob("*") if path.suffix in _TYPES and path.is_file()}
        self._vendor = {name: node_modules / path for name, path in VENDOR.items()}

    def add(self, app: web.Application) -> None:
        app.router.add_get("/", self._index)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_get("/vendor/{name}", self._library)

    async def _index(self, _request: web.Request) -> web.StreamResponse:
        return _file(self._files.get("index.html"))

    async def _static(self, request: web.Request) -> web.StreamResponse:
        return _file(self._files.get(request.match_info["name"]))

    async def _library(self, request: web.Request) -> web.StreamResponse:
        path = self._vendor.get(request.match_info["name"])
        if path is not None and not path.is_file():
            raise Problem("page_libraries_missing", "The page's libraries are not installed: run `npm ci`.", 404)
        return _file(path)


def _file(path: Path | None) -> web.StreamResponse:
    if path is None:
        raise Problem("not_found", "There is nothing at this address.", 404)
    return web.FileResponse(path, headers={"Content-Type": _TYPES[path.suffix], "Cache-Control": "no-cache"})
