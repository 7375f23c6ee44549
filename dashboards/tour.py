"""People who use the stack, so that no panel is empty on first sight: `make tour`, or `make stack TOUR=1`.

Each person opens a page (the stock Python client), links an account and scans the code, reloads, loses the phone's
connection, closes the page and comes back later, logs out and sleeps. Some pages acknowledge, some are older and never
do. With `--fault-every` one named fault after the other is switched on for a while.

It stands alone: the stack mounts this one file into the backend's image.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import socketio

TOKEN_LIFE: Final = 3600
FAULT_SECONDS: Final = 30.0
"""How long a fault stays on, at pace 1."""

FAULTS: Final = {"early_disconnect": 500.0, "slow_outbox": 0.3, "whatsapp_flap": 3.0}
"""Parameters of those that have one; others are switched on as they are. `outbox_down` is left out: it ends the tour's
own requests, and so shows less than the others."""
LEFT_OUT: Final = frozenset({"outbox_down"})


@dataclass
class Place:
    """Where the backend is, and who may do what there. `pace` is a factor on all waiting; below 1 is faster."""

    url: str
    admin_url: str
    admin_key: str | None = None
    signing_key: str | None = None
    issuer: str = "roundtrip-stack"
    pace: float = 1.0
    random: random.Random = field(default_factory=random.Random)

    async def wait(self, low: float, high: float) -> None:
        """Some seconds between these, at this pace."""
        await asyncio.sleep(self.random.uniform(low, high) * self.pace)

    def token(self, user: str) -> str | None:
        """None where identity is trusted."""
        if self.signing_key is None:
            return None
        claims = {"sub": user, "iss": self.issuer, "exp": int(time.time()) + TOKEN_LIFE}
        return jwt.encode(claims, self.signing_key, algorithm="ES256")


class Person:
    """One user with one bot."""

    def __init__(self, place: Place, session: aiohttp.ClientSession, user: str, *, acks: bool) -> None:
        self._place = place
        self._session = session
        self._acks = acks
        self.user = user
        self.bot = "bot"

    async def live(self) -> None:
        """Days in a row, until cancelled. What goes wrong is told, and the next day begins."""
        await self._place.wait(0, 10)
        while True:
            try:
                await self.day()
            except (aiohttp.ClientError, socketio.exceptions.SocketIOError, TimeoutError, Refused) as error:
                say(f"{self.user}: {type(error).__name__}: {error}")
            await self._place.wait(5, 20)

    async def day(self) -> None:
        """From the link's start to its end."""
        place = self._place
        async with self.page():
            await self.call("PUT", f"/api/bots/{self.bot}/link")
            await self.state("qr", "connected")
            await place.wait(2, 6)
            await self.act("scan")
            await self.state("connected")
            await place.wait(3, 10)
        await place.wait(0.2, 1)
        async with self.page():  # a reload
            await place.wait(3, 10)
            await self.act("disconnect")
            await place.wait(6, 10)
            await self.act("reconnect")
            await place.wait(2, 8)
        await place.wait(1, 3)
        await self.act("disconnect")  # nobody is there to see it
        await place.wait(8, 15)
        await self.act("reconnect")
        await place.wait(2, 5)
        async with self.page():  # and gets what was missed
            await place.wait(3, 10)
            await self.call("DELETE", f"/api/bots/{self.bot}/link")
            await place.wait(1, 2)

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator[None]:
        """An open page."""
        client = socketio.AsyncClient(handle_sigint=False)
        never = asyncio.Event()

        async def event(_payload: object) -> None:
            if not self._acks:
                await never.wait()  # an older page: its handler does not acknowledge

        client.on("whatsapp_connection_event", event)
        auth: dict[str, Any] = {"botId": self.bot, "acks": self._acks}
        token = self._place.token(self.user)
        auth |= {"userId": self.user} if token is None else {"token": token}
        await client.connect(self._place.url, auth=auth, wait_timeout=10)
        try:
            yield
        finally:
            never.set()
            await client.shutdown()

    async def act(self, action: str) -> None:
        """What the simulated phone does. Not possible now, as when a fault was quicker: then nothing."""
        with contextlib.suppress(Refused):
            await self.call("POST", f"/api/bots/{self.bot}/link/simulate", {"action": action})

    async def state(self, *wanted: str) -> None:
        """Wait until the link is in one of these states."""
        async with asyncio.timeout(60):
            while True:
                if (await self.call("GET", f"/api/bots/{self.bot}/link"))["state"] in wanted:
                    return
                await asyncio.sleep(0.2 * self._place.pace)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer. Raises `Refused`."""
        token = self._place.token(self.user)
        headers = {"X-User-Id": self.user} if token is None else {"Authorization": f"Bearer {token}"}
        async with self._session.request(method, self._place.url + path, json=body, headers=headers) as response:
            answer = await response.json(content_type=None)
            if response.status >= 400:
                raise Refused(f"{method} {path}: {response.status} {answer.get('code')}")
            return answer


class Refused(Exception):  # noqa: N818  # an answer, not a fault
    """The backend said no."""


async def break_things(place: Place, session: aiohttp.ClientSession, every: float) -> None:
    """One fault after the other, each for `FAULT_SECONDS`, one `every` seconds. The last is switched off in the end."""
    headers = {} if place.admin_key is None else {"Authorization": f"Bearer {place.admin_key}"}
    url = f"{place.admin_url}/debug/faults"
    number = 0
    while True:
        await asyncio.sleep(every)
        try:
            async with session.get(url, headers=headers) as response:
                response.raise_for_status()
                names = [one["name"] for one in (await response.json())["faults"] if one["name"] not in LEFT_OUT]
            name = names[number % len(names)]
            body = {"parameter": FAULTS[name]} if name in FAULTS else {}
            try:
                async with session.put(f"{url}/{name}", json=body, headers=headers) as response:
                    response.raise_for_status()
                say(f"fault {name}")
                await asyncio.sleep(FAULT_SECONDS * place.pace)
            finally:
                async with session.delete(f"{url}/{name}", headers=headers):
                    say(f"fault {name} is over")
        except aiohttp.ClientError as error:
            say(f"fault: {type(error).__name__}: {error}")
        number += 1


async def tour(place: Place, people: int, fault_every: float) -> None:
    """Run until cancelled. `fault_every` 0 breaks nothing."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        for number in range(people):
            person = Person(place, session, f"tour-{number + 1}", acks=number % 3 != 2)
            group.create_task(person.live())
        if fault_every > 0:
            group.create_task(break_things(place, session, fault_every))


def say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def _read(path: Path | None) -> str | None:
    return None if path is None else path.read_text().strip()


async def _until_stopped(place: Place, people: int, fault_every: float) -> None:
    task = asyncio.ensure_future(tour(place, people, fault_every))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. Ends the program where it is wrong."""
    parser = argparse.ArgumentParser(prog="tour", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the backend's public address")
    parser.add_argument("--admin-url", default="http://127.0.0.1:9464", help="its admin address, for faults")
    parser.add_argument("--admin-key-file", type=Path, help="file with the admin key, where it has one")
    parser.add_argument("--signing-key-file", type=Path, help="file with the key that signs tokens; none: trusted")
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--pace", type=float, default=1.0, help="factor on all waiting; below 1 is faster")
    parser.add_argument("--fault-every", type=float, default=0.0, help="seconds between two faults; 0: none")
    asked = parser.parse_args(arguments)
    if asked.people < 1 or asked.pace <= 0 or asked.fault_every < 0:
        parser.error("--people must be at least 1, --pace above 0, --fault-every at least 0")
    for path in (asked.admin_key_file, asked.signing_key_file):
        if path is not None and not path.is_file():
            parser.error(f"{path}: no such file")
    return asked


def main(arguments: list[str] | None = None) -> int:
    asked = parse(arguments)
    place = Place(
        asked.url.rstrip("/"),
        asked.admin_url.rstrip("/"),
        _read(asked.admin_key_file),
        _read(asked.signing_key_file),
        pace=asked.pace,
    )
    say(f"{asked.people} people at {place.url}")
    asyncio.run(_until_stopped(place, asked.people, asked.fault_every))
    return 0


if __name__ == "__main__":
    sys.exit(main())
