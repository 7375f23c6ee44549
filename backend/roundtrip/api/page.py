"""The demo page, its files and libraries: compressed, with validators, and cacheable for ever under a versioned path.

`GET /` is small and always revalidated; it names its files below `/static/<version>/`, where the version is a hash of
all of them, so that they never change. Of the disk only the files of this module's tables are reachable.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import html
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from roundtrip.api.libraries import MISSING, NODE_MODULES, library
from roundtrip.api.problems import Problem
from roundtrip.api.schemas import Config

_PACKAGE: Final = Path(__file__).resolve().parents[1]
WEB: Final = _PACKAGE / "web"

VENDOR: Final = {
    "socket.io.esm.min.js": "socket.io-client/dist/socket.io.esm.min.js",
    "socket.io.esm.min.js.map": "socket.io-client/dist/socket.io.esm.min.js.map",
    "qrcode.mjs": "qrcode-generator/dist/qrcode.mjs",
}
"""Libraries of the page by their served name; paths are within `node_modules`."""

CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

REVALIDATE: Final = "no-cache"
FOR_EVER: Final = "public, max-age=31536000, immutable"
_COMPRESSED_ALREADY: Final = frozenset({".png", ".woff2"})


class Asset:
    """The content of one file, its validator and its compressed form, which is made once and only when asked for."""

    def __init__(self, content: bytes, suffix: str) -> None:
        self.content = content
        self.suffix = suffix
        self.digest = hashlib.sha256(content).hexdigest()[:16]

    @cached_property
    def gzipped(self) -> bytes:
        return gzip.compress(self.content, 9, mtime=0)

    async def response(self, request: web.Request, cache: str) -> web.Response:
        """The file, compressed where the client takes that; 304 where it has it already."""
        compress = self.suffix not in _COMPRESSED_ALREADY and "gzip" in request.headers.get("Accept-Encoding", "")
        tag = f"{self.digest}-gzip" if compress else self.digest
        headers = {"Cache-Control": cache, "ETag": f'"{tag}"', "Vary": "Accept-Encoding"}
        if any(known.value in {tag, "*"} for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = CONTENT_TYPES[self.suffix]
        if not compress:
            return web.Response(body=self.content, headers=headers)
        headers["Content-Encoding"] = "gzip"
        return web.Response(body=await asyncio.to_thread(lambda: self.gzipped), headers=headers)


class Page:
    """Serves the demo page at `/`, its files at `/static/…` and its libraries at `/static/vendor/…`."""

    def __init__(self, web_folder: Path = WEB, node_modules: Path = NODE_MODULES) -> None:
        paths = {path.name: path for path in web_folder.glob("*") if path.suffix in CONTENT_TYPES and path.is_file()}
        libraries = {f"vendor/{name}": library(path, node_modules) for name, path in VENDOR.items()}
        self._missing = {name for name, path in libraries.items() if not path.is_file()}
        found = paths | {name: path for name, path in libraries.items() if name not in self._missing}
        self._assets = {name: Asset(path.read_bytes(), path.suffix) for name, path in sorted(found.items())}
        digests = "".join(asset.digest for asset in self._assets.values())
        self.version = hashlib.sha256(digests.encode()).hexdigest()[:12]

    def add(self, app: web.Application, config: Config | None = None) -> None:
        """`config` is written into the page, which saves it a request."""
        index = self._index(config)

        async def show(request: web.Request) -> web.StreamResponse:
            if index is None:
                raise _not_found()
            missing = [
                path for name, path in VENDOR.items() if name.endswith("js") and f"vendor/{name}" in self._missing
            ]
            if missing:
                text = MISSING.format(names=", ".join(missing))
                return web.Response(text=text, status=503, content_type="text/html")
            return await index.response(request, REVALIDATE)

        app.router.add_get("/", show)
        app.router.add_get("/static/{path:.+}", self._static)

    def _index(self, config: Config | None) -> Asset | None:
        page = self._assets.get("index.html")
        if page is None:
            return None
        text = page.content.decode().replace('"/static/', f'"/static/{self.version}/')
        if config is not None:
            value = html.escape(msgspec.json.encode(config).decode())
            text = text.replace('name="roundtrip-config" content=""', f'name="roundtrip-config" content="{value}"')
        return Asset(text.encode(), ".html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        name = path.removeprefix(f"{self.version}/")
        if name in self._missing:
            detail = "The page's libraries are not installed: run `make run`, or `npm ci`."
            raise Problem("page_libraries_missing", detail, 404)
        asset = self._assets.get(name)
        if asset is None:
            raise _not_found()
        return await asset.response(request, REVALIDATE if name == path else FOR_EVER)


def _not_found() -> Problem:
    return Problem("not_found", "There is nothing at this address.", 404)
