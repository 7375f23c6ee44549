"""The whole program in the test's own process, on real free ports: quick to start, and the test names no part of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from roundtrip.app import Backend
from roundtrip.settings import Settings
from tests.support.process_state import put_back
from tests.support.program import Api


class Inside:
    """A running program. The addresses have no slash at their end."""

    def __init__(self, backend: Backend, session: aiohttp.ClientSession) -> None:
        self.url = backend.url
        self.admin_url = backend.admin_url
        self.session = session

    def user(self, name: str = "user") -> Api:
        """The API as this user calls it."""
        return Api(self, self.session, name)

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON or text, and headers (by lower case names) of a public route, or of an admin one if the path
        is a whole address."""
        url = path if path.startswith("http") else self.url + path
        async with self.session.request(method, url, **options) as response:
            is_json = "json" in response.content_type
            body = await (response.json(content_type=None) if is_json else response.text())
            return response.status, body, {name.lower(): value for name, value in response.headers.items()}

    async def admin(self, method: str, path: str, **options: Any) -> tuple[int, Any, dict[str, str]]:
        return await self.request(method, self.admin_url + path, **options)

    async def fault(self, name: str, *, on: bool = True, parameter: float | None = None) -> None:
        """Switch a named fault."""
        options = {"json": {} if parameter is None else {"parameter": parameter}} if on else {}
        status, answer, _ = await self.admin("PUT" if on else "DELETE", f"/debug/faults/{name}", **options)
        assert status == 200, answer


@asynccontextmanager
async def inside(data_dir: Path, **settings: Any) -> AsyncIterator[Inside]:
    """Start the program with trusted identity and a simulated phone, ten times as fast as a real one; `settings` are
    the program's, in lower case. It is stopped in the end."""
    defaults: dict[str, Any] = {
        "auth": "trusted",
        "host": "127.0.0.1",
        "port": 0,
        "admin_port": 0,
        "data_dir": data_dir,
        "whatsapp_driver": "simulated",
        "simulated_speed": 10,
        "log_format": "json",
        "canary_interval": 0,
    }
    with put_back():
        backend = Backend(Settings(**(defaults | settings)))
        await backend.start()
        try:
            async with aiohttp.ClientSession() as session:
                yield Inside(backend, session)
        finally:
            await backend.stop()
