"""The program with one more admin route, `POST /test/publish`, which publishes events as a link would.

`python -m tests.support.publishing` takes the settings that `python -m backend` takes.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from aiohttp import web

from roundtrip.app import Backend
from roundtrip.cli import serve
from roundtrip.environment import load
from roundtrip.events import Connected, Degraded, Payload
from roundtrip.identity import BotKey

COMMAND = (sys.executable, "-m", "tests.support.publishing")


class Wanted(msgspec.Struct, rename="camel"):
    """`count` events for each user's bot `bot`; `passing` ones may be superseded while nobody is there."""

    users: tuple[str, ...]
    count: int = 1
    passing: bool = False
    size: int = 0
    """Characters by which the display name is longer."""


class PublishingBackend(Backend):
    def _admin_app(self) -> web.Application:
        app = super()._admin_app()
        app.router.add_post("/test/publish", self._publish)
        return app

    async def _publish(self, request: web.Request) -> web.Response:
        """Answers with the ids, once all are committed."""
        wanted = msgspec.json.decode(await request.read(), type=Wanted)
        payload: Payload = Degraded() if wanted.passing else Connected("+15550100", "A" * wanted.size, False)
        events = await asyncio.gather(
            *(
                self.courier.publish(BotKey(user, "bot"), "link", payload)
                for _ in range(wanted.count)
                for user in wanted.users
            )
        )
        return web.json_response([[event.key.user_id, event.seq, event.id] for event in events])


if __name__ == "__main__":
    uvloop.run(serve(load(), PublishingBackend))
