"""Programs on one store, each with a disk of its own, and what they and the store say of a link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.postgres import value
from tests.support.program import Api, Program, api, running

FAST: dict[str, Any] = {"lease": 2, "simulated_speed": 20}


class Node:
    """A running program, and its API as one user."""

    def __init__(self, program: Program, user: Api) -> None:
        self.program = program
        self.user = user

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it logged of this kind."""
        lines = (json.loads(line) for line in self.program.log if line.startswith(b"{"))
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def nodes(folder: Path, database: str, *names: str, **settings: Any) -> AsyncIterator[list[Node]]:
    """Programs of these names."""
    async with AsyncExitStack() as stack:

        async def node(name: str) -> Node:
            own = {**FAST, **settings, "store": database, "node_id": name}
            program = await stack.enter_async_context(running(folder / name, **own))
            return Node(program, await stack.enter_async_context(api(program)))

        starting = [asyncio.ensure_future(node(name)) for name in names]
        await asyncio.wait(starting)
        yield [one.result() for one in starting]


async def owner(database: str, bot: str = "bot") -> str | None:
    name: str | None = await value(database, "SELECT owner FROM links WHERE bot_id = $1", bot)
    return name
