"""What is true of sockets whatever clients send: a model that watches up to four raw clients of the real program.

It knows nothing of how the program works. It knows what each client sent and heard, what was published, and what
`/debug/sockets` and the ledger say; `check` compares them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from tests.support.program import Program
from tests.support.raw_client import RawClient
from tests.support.tokens import private_key, token

SETTLE = 5.0
"""Seconds within which the registry must agree with the connections."""

LATE = 2.5
"""Seconds after a token's end, and its grace, by which its socket is gone."""

SLACK = 0.3
"""Seconds that a packet may be under way."""

GROWTH = 64 * 1024 * 1024

ALGORITHM = "ES256"


def signed(user: str, life: float) -> tuple[str, float]:
    """A token, and when it runs out in seconds since the epoch."""
    ends = int(time.time() + life)
    return token(private_key(ALGORITHM), algorithm=ALGORITHM, sub=user, exp=ends), float(ends)


@dataclass
class Join:
    """One CONNECT to the namespace."""

    user: str
    ends: float
    must_ack: bool
    position: int
    """Of the CONNECT among the packets sent."""
    sid: str = ""
    """Empty until it is accepted."""
    answered: bool = False
    accepted_at: float = 0.0
    left_at: int | None = None
    """Position of the packet that left the namespace."""
    over_at: float | None = None
    """Monotonic seconds: by then everybody had seen its end."""


@dataclass
class Client:
    raw: RawClient
    joins: list[Join] = field(default_factory=list)
    renewals: dict[int, tuple[Join, float]] = field(default_factory=dict)
    """By ack id: whose, and the new end."""
    read: int = 0

    @property
    def joined(self) -> Join | None:
        """The join that holds now, as this client sees it."""
        if self.raw.closed is not None:
            return None
        return next((join for join in self.joins if join.sid and join.left_at is None), None)

    def answered(self) -> bool:
        """Whether its first CONNECT was, or never will be."""
        self.look()
        return self.raw.closed is not None or self.joins[0].answered

    def look(self) -> None:
        """Take up what came since the last look."""
        for packet in self.raw.heard[self.read :]:
            self.read += 1
            text = packet.text
            waiting = next((join for join in self.joins if not join.answered), None)
            if text.startswith("40{") and waiting is not None:
                waiting.answered, waiting.accepted_at = True, packet.at
                waiting.sid = json.loads(text[2:])["sid"]
            elif text.startswith("44{") and waiting is not None:
                waiting.answered = True
            elif text == "41" and self.joined is not None:
                self.joined.left_at = len(self.raw.sent)
            elif text.startswith("43"):
                number, _, answer = text[2:].partition("[")
                join, ends = self.renewals.pop(int(number), (None, 0.0))
                if join is not None and json.loads("[" + answer)[0]["ok"]:
                    join.ends = ends

    def proved(self, join: Join, event: Event) -> set[str]:
        """By what signs of life, sent while it was joined, this client may have confirmed the event."""
        sent = self.raw.sent[join.position : join.left_at]
        proofs = set()
        if any(packet.text == f"43{event.seq}[]" and packet.at >= event.asked_at for packet in sent):
            proofs.add("acked")
        if join.must_ack:
            return proofs
        pongs = sum(packet.text == "3" for packet in self.raw.sent[: join.left_at])
        pings = 0
        seen = False
        for packet in self.raw.heard:
            pings += packet.text == "2"
            seen = seen or event.id in packet.text
            if seen and packet.text == "2":
                if pongs >= pings:
                    proofs.add("received")
                return proofs
        if self.raw.closed is not None and any(p.text == "3" and p.at >= event.asked_at for p in sent):
            proofs.add("received")  # what it was asked last was never read here
        return proofs


@dataclass(frozen=True)
class Event:
    id: str
    seq: int
    user: str
    asked_at: float


class ViolationError(AssertionError):
    """Something that must always hold does not."""


class Model:
    """One conversation. Users are its own, so that many follow each other on one program."""

    def __init__(self, program: Program, name: str, grace: float, session: aiohttp.ClientSession) -> None:
        """`grace` is the program's own setting, in seconds."""
        self.program = program
        self.name = name
        self.grace = grace
        self.session = session
        self.clients: dict[int, Client] = {}
        self.gone: list[Client] = []
        self.events: list[Event] = []
        self.numbers = 1000

    def user(self, identity: int) -> str:
        return f"{self.name}-{identity}"

    # what clients do

    async def open(self, slot: int, transport: str) -> None:
        await self.close(slot)
        raw = RawClient(self.program.url)
        await raw.open(transport)
        self.clients[slot] = Client(raw)

    async def upgrade(self, slot: int) -> None:
        client = self.clients[slot]
        if client.raw.closed is None and client.raw.transport == "polling":
            try:
                await client.raw.upgrade()
            except (aiohttp.ClientError, AssertionError, TypeError, ConnectionError):
                client.raw.closed = client.raw.closed or "upgrade refused"
                await client.raw.close()  # a stock client gives up too

    async def join(self, slot: int, identity: int, life: float, *, acks: bool = False) -> None:
        """CONNECT; a `life` of 0 brings no token."""
        client = self.clients[slot]
        user = self.user(identity)
        auth: dict[str, Any] = {"botId": "bot", "acks": acks}
        ends = 0.0
        if life:
            auth["token"], ends = signed(user, life)
        client.joins.append(Join(user, ends, acks, len(client.raw.sent)))
        await client.raw.send("40" + json.dumps(auth))

    async def joined(self, slot: int, identity: int, life: float) -> None:
        """Join unless the slot is joined already, and wait for the answer: most sequences that matter begin so."""
        client = self.clients[slot]
        client.look()
        if client.joined is None and client.raw.closed is None and not client.joins:
            await self.join(slot, identity, life)
            with contextlib.suppress(TimeoutError):
                await client.raw.until(client.answered, 2)

    async def leave(self, slot: int) -> None:
        client = self.clients[slot]
        client.look()
        for join in client.joins:
            if join.left_at is None:
                join.left_at = len(client.raw.sent)
        await client.raw.send("41")

    async def renew(self, slot: int, identity: int, life: float) -> None:
        client = self.clients[slot]
        client.look()
        if client.joined is None:
            return
        self.numbers += 1
        fresh, ends = signed(self.user(identity), life)
        if client.joined.user == self.user(identity):
            client.joined.ends = max(client.joined.ends, ends)  # until the answer says otherwise
        await client.raw.send(f"42{self.numbers}" + json.dumps(["auth", {"token": fresh}]))

    async def say(self, slot: int, packets: list[str]) -> None:
        """Anything else."""
        await self.clients[slot].raw.send(*packets)

    async def ack(self, slot: int, back: int, form: str) -> None:
        """Acknowledge the event `back` places before the newest, whether it was heard or not."""
        if self.events:
            event = self.events[-1 - back % len(self.events)]
            await self.clients[slot].raw.send(f"43{event.seq}{form}")

    async def close(self, slot: int, *, rude: bool = False) -> None:
        client = self.clients.pop(slot, None)
        if client is not None:
            client.look()
            if rude:
                client.raw.abort()
            await client.raw.close()
            self.gone.append(client)

    async def publish(self, identity: int) -> None:
        asked = time.monotonic()
        body = {"users": [self.user(identity)]}
        async with self.session.post(f"{self.program.admin_url}/test/publish", json=body) as response:
            response.raise_for_status()
            self.events += [Event(id_, seq, user, asked) for user, seq, id_ in await response.json()]

    async def end(self) -> None:
        for slot in list(self.clients):
            await self.close(slot)
        await self.check()

    # what must hold

    async def check(self) -> None:
        """Raises `ViolationError`."""
        await self._registry_agrees()
        now = time.monotonic()
        for client in (*self.clients.values(), *self.gone):
            if sum(bool(join.sid) for join in client.joins) > 1:
                raise ViolationError("one connection carried more than one socket")
            for join in client.joins:
                if join.over_at is None and (join.left_at is not None or client.raw.closed is not None):
                    join.over_at = now
            self._heard_only_its_own(client)
        await self._ledger_is_proved()
        grown = psutil.Process(self.program.pid).memory_info().rss
        if grown > self.base() + GROWTH:
            raise ViolationError(f"the program holds {grown / 1e6:.0f} MB")

    def base(self) -> int:
        if not hasattr(self.program, "base"):
            self.program.base = psutil.Process(self.program.pid).memory_info().rss  # type: ignore[attr-defined]  # noted once a program
        found: int = self.program.base  # type: ignore[attr-defined]
        return found

    async def _registry_agrees(self) -> None:
        """Mapped are the connections that are joined, under the key that their token names, and no others."""
        deadline = time.monotonic() + SETTLE
        while True:
            mapped = await self._mapped()
            must, may = self._expected()
            if must.items() <= mapped.items() and mapped.items() <= (must | may).items():
                return
            if time.monotonic() > deadline:
                raise ViolationError(f"mapped: {mapped}; joined: {must}; perhaps: {may}")
            await asyncio.sleep(0.02)

    async def _mapped(self) -> dict[str, str]:
        """User by sid, of this conversation."""
        async with self.session.get(f"{self.program.admin_url}/debug/sockets") as response:
            keys = (await response.json())["keys"]
        return {
            socket["sid"]: key["userId"]
            for key in keys
            if key["userId"].startswith(f"{self.name}-")
            for socket in key["sockets"]
        }

    def _expected(self) -> tuple[dict[str, str], dict[str, str]]:
        """User by sid: of those that must be mapped, and of those whose token is just running out."""
        must: dict[str, str] = {}
        may: dict[str, str] = {}
        now = time.time()
        for client in self.clients.values():
            client.look()
            join = client.joined
            if join is not None and now <= join.ends + self.grace + LATE:
                (must if now < join.ends else may)[join.sid] = join.user
        return must, may

    def _heard_only_its_own(self, client: Client) -> None:
        offset = time.time() - time.monotonic()
        for at, _, payload in client.raw.events():
            user = payload["userId"]
            if not any(
                join.sid
                and join.user == user
                and at >= join.accepted_at - SLACK
                and (join.over_at is None or at <= join.over_at + SLACK)
                and at + offset <= join.ends + self.grace + LATE
                for join in client.joins
            ):
                raise ViolationError(f"a client heard an event of {user}, whose token it does not hold (any more)")

    async def _ledger_is_proved(self) -> None:
        users = {event.user for event in self.events}
        ledger: dict[str, dict[str, Any]] = {}
        for user in users:
            headers = {"Authorization": f"Bearer {signed(user, 60)[0]}"}
            url = f"{self.program.url}/api/bots/bot/events?limit=500"
            async with self.session.get(url, headers=headers) as response:
                response.raise_for_status()
                ledger |= {event["id"]: event for event in (await response.json())["events"]}
        for event in self.events:
            entry = ledger.get(event.id)
            if entry is None:
                raise ViolationError(f"event {event.seq} of {event.user} is not in the ledger")
            outcome = entry["outcome"]
            if outcome in {"acked", "received"}:
                written = {sid for attempt in entry["attempts"] for sid in attempt.get("sids", ())}
                proofs = [
                    client.proved(join, event)
                    for client in (*self.clients.values(), *self.gone)
                    for join in client.joins
                    if join.sid in written and join.user == event.user
                ]
                if not any(outcome in proof for proof in proofs):
                    raise ViolationError(f"event {event.seq} of {event.user} counts as {outcome}, and nobody said so")
