"""Several nodes on one PostgreSQL, as processes that a test kills, pauses, cuts off and starts again.

Each node reaches the store through a TCP proxy of its own, and keeps its ports, so that clients and other proxies find
it again. Its sessions are recorded (`recorded_backend`): when each was online, by the machine's steady clock.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.support.ports import free_port
from tests.support.program import Program, running
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

RECORDED: Final = (sys.executable, "-m", "tests.support.recorded_backend")


class Span(NamedTuple):
    """A time in which something lasted, in nanoseconds of the machine's steady clock."""

    began: int
    ended: int


class Node:
    """One of them. `pauses` are the times in which its process could do nothing."""

    def __init__(self, name: str, folder: Path, proxy: TcpProxy, database: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.proxy = proxy
        self.database = database
        self.port, self.admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin_url = f"http://127.0.0.1:{self.admin_port}"
        self.program: Program | None = None
        self.pauses: list[Span] = []
        self.lives = 0
        self.logs: list[str] = []
        self._folder = folder
        self.record = folder / f"{name}.sessions"
        self._settings = settings | {
            "port": self.port,
            "admin_port": self.admin_port,
            "node_id": name,
            "store": f"postgresql://roundtrip@127.0.0.1:{proxy.port}/{database}",
        }
        self._stack = AsyncExitStack()
        self._paused_at = 0

    @property
    def up(self) -> bool:
        """Whether its process runs, and is not paused."""
        return self.program is not None and not self._paused_at

    async def start(self, *, ready: bool = True) -> None:
        self.lives += 1
        command = (*RECORDED, str(self.record))
        self.program = await self._stack.enter_async_context(
            running(self._folder / self.name, command=command, ready=ready, **self._settings)
        )

    def pause(self) -> None:
        assert self.program is not None
        self._paused_at = time.monotonic_ns()
        self.program.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.program is not None and self._paused_at:
            self.program.process.send_signal(signal.SIGCONT)
            self.pauses.append(Span(self._paused_at, time.monotonic_ns()))
        self._paused_at = 0

    async def kill(self) -> None:
        """kill -9."""
        self.resume()
        if self.program is not None:
            with suppress(ProcessLookupError):
                self.program.kill()
            await self._over()

    async def watch(self) -> str | None:
        """Start it again where it ended by itself, as whatever runs it would; its last words then."""
        program = self.program
        if program is None or program.process.returncode is None:
            return None
        await self._over()
        await self.start(ready=False)
        lines = program.text().strip().splitlines()
        return f"{program.process.returncode}: {lines[-1] if lines else ''}"

    async def stop(self, within: float = 30) -> int:
        """End it cleanly; its exit status."""
        assert self.program is not None
        self.program.terminate()
        status = await self.program.ended(within)
        await self._over()
        return status

    async def _over(self) -> None:
        program, self.program = self.program, None
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        if program is not None:
            self.logs.append(program.text())
            with self.record.open("a") as file:  # its sessions went with it, at the latest now
                file.write(json.dumps({"link": None, "at": time.monotonic_ns(), "online": False}) + "\n")

    def sessions(self) -> dict[str, list[Span]]:
        """When its session of each link was online and its process could act."""
        open_: dict[str, int] = {}
        spans: defaultdict[str, list[Span]] = defaultdict(list)
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        for line in lines:
            note = json.loads(line)
            if note["online"]:
                open_.setdefault(note["link"], note["at"])
                continue
            for link in [note["link"]] if note["link"] else list(open_):
                if (began := open_.pop(link, None)) is not None:
                    spans[link].append(Span(began, note["at"]))
        for link, began in open_.items():
            spans[link].append(Span(began, time.monotonic_ns()))
        return {link: [part for span in found for part in self._awake(span)] for link, found in spans.items()}

    def _awake(self, span: Span) -> list[Span]:
        """What is left of a time without the pauses."""
        parts = [span]
        for pause in self.pauses:
            cut = []
            for part in parts:
                if pause.ended <= part.began or pause.began >= part.ended:
                    cut.append(part)
                    continue
                cut += [Span(part.began, pause.began)] if part.began < pause.began else []
                cut += [Span(pause.ended, part.ended)] if pause.ended < part.ended else []
            parts = cut
        return parts


def overlaps(nodes: list[Node]) -> list[tuple[str, str, str, float]]:
    """Links that two nodes had online at one time: the link, both nodes, and for how many seconds."""
    found = []
    spans = {node.name: node.sessions() for node in nodes}
    names = sorted(spans)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            for link in spans[one].keys() & spans[other].keys():
                for a in spans[one][link]:
                    for b in spans[other][link]:
                        common = min(a.ended, b.ended) - max(a.began, b.began)
                        if common > 0:
                            found.append((link, one, other, common / 1e9))
    return found


@asynccontextmanager
async def cluster(
    folder: Path, postgres_port: int, database: str, *names: str, **settings: Any
) -> AsyncIterator[list[Node]]:
    """Nodes of a database, started one after the other (the schema is made once); all are ended in the end."""
    async with AsyncExitStack() as stack:
        nodes = []
        for name in names:
            proxy = await stack.enter_async_context(tcp_proxy(postgres_port))
            node = Node(name, folder, proxy, database, settings)
            stack.push_async_callback(node.kill)
            await node.start()
            nodes.append(node)
        yield nodes
