"""The reference at `/docs`: the OpenAPI document rendered by Swagger UI, the Socket.IO messages as a table, and both
documents as JSON. Under the same policy as every page: no inline script or style, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import msgspec
from aiohttp import web

from roundtrip.api.libraries import MISSING, library
from roundtrip.api.page import REVALIDATE, Asset
from roundtrip.api.problems import Problem

VENDOR: Final = {
    "swagger-ui.css": "swagger-ui-dist/swagger-ui.css",
    "swagger-ui-bundle.js": "swagger-ui-dist/swagger-ui-bundle.js",
}
"""Libraries of the reference by their served name; paths are within `node_modules`."""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Roundtrip: API reference</title>
<link rel="icon" type="image/svg+xml" href="/static/icon.svg">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="stylesheet" href="/static/reference.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/static/reference.js" defer></script>
</head>
<body>
<header>
<p><strong>Roundtrip</strong> API reference</p>
<nav aria-label="Reference"><a href="#http">HTTP</a> <a href="#messages">Socket.IO messages</a>
<a href="/docs/openapi.json">openapi.json</a> <a href="/docs/asyncapi.json">asyncapi.json</a></nav>
</header>
<main>
<div id="http"></div>
<section id="messages">
<h2>Socket.IO messages</h2>
<p>{description}</p>
<div class="scroll" role="region" aria-label="Socket.IO messages" tabindex="0"><table>
<thead><tr><th>Message</th><th>Event name</th><th>Sent by</th><th>What it says</th><th>Schema</th></tr></thead>
<tbody>{rows}</tbody>
</table></div>
</section>
</main>
</body>
</html>
"""


class Reference:
    """Serves `/docs` and what it needs."""

    def __init__(self, documents: Callable[[], Mapping[str, bytes]]) -> None:
        """`documents` makes openapi.json and asyncapi.json; it is called once, when the first is asked for."""
        self._make = documents
        self._libraries = {name: library(path) for name, path in VENDOR.items()}

    def add(self, app: web.Application) -> None:
        app.router.add_get("/docs", self._show)
        app.router.add_get("/docs/{name}", self._file)

    @cached_property
    def _assets(self) -> Mapping[str, Asset]:
        """Every file by its name, the page as `index.html`."""
        found = {
            name: Asset(path.read_bytes(), path.suffix) for name, path in self._libraries.items() if path.is_file()
        }
        documents = {name: Asset(content, ".json") for name, content in self._make().items()}
        page = _PAGE.format(**_messages(msgspec.json.decode(documents["asyncapi.json"].content)))
        return {**found, **documents, "index.html": Asset(page.encode(), ".html")}

    async def _show(self, request: web.Request) -> web.StreamResponse:
        missing = [VENDOR[name] for name, path in self._libraries.items() if not path.is_file()]
        if missing:
            text = MISSING.format(names=", ".join(missing))
            return web.Response(text=text, status=503, content_type="text/html")
        return await self._respond(request, "index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return await self._respond(request, request.match_info["name"])

    async def _respond(self, request: web.Request, name: str) -> web.StreamResponse:
        assets = await asyncio.to_thread(lambda: self._assets)
        asset = assets.get(name)
        if asset is None:
            raise Problem("not_found", "There is nothing at this address.", 404)
        return await asset.response(request, REVALIDATE)


def _messages(document: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the page that the AsyncAPI document fills."""
    return {
        "description": html.escape(document["info"]["description"]),
        "rows": "\n".join(_rows(document)),
    }


def _rows(document: Mapping[str, Any]) -> Iterator[str]:
    for operation in document["operations"].values():
        sender = "backend" if operation["action"] == "send" else "client"
        for reference in operation["messages"]:
            name = reference["$ref"].rpartition("/")[2]
            message = document["components"]["messages"][name]
            schema = message["payload"].get("$ref", "").rpartition("/")[2] or "nothing"
            cells = (name, message["name"], sender, message.get("summary", ""), schema)
            yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
