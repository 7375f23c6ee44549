"""One account that many people write to, and others in the same host that come and go: do they notice?

`measure` has it play, and says what the others waited for, with what the busy one cost. Accounts in a second host come
and go at the same time: what those wait for longer is not the busy one's doing, but the machine's or the stand-in's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from roundtrip.drivers import base as d
from tests.whatsapp.groups import Group
from tests.whatsapp.hosts import Hosts, Member, until
from tests.whatsapp.nodes import Node

GROUPS = 500
OTHERS = 5
PAUSE = 0.1
"""Seconds that an account stays connected between two losses of its connection."""
BEHIND = 300.0
"""Seconds that the library may take for the rest, on a machine that does much else."""
MEGABYTE = 1024 * 1024


@dataclass
class Delays:
    """Seconds from what happened at WhatsApp's side until the driver reported it."""

    offline: list[float] = field(default_factory=list)
    online: list[float] = field(default_factory=list)

    def of(self, percent: int) -> tuple[float, float]:
        """A percentile of both."""
        return _percentile(self.offline, percent), _percentile(self.online, percent)

    def __str__(self) -> str:
        return f"{len(self.online)} ({1000 * self.of(99)[0]:.0f}, {1000 * self.of(99)[1]:.0f} ms)"


@dataclass
class Found:
    apart: Delays = field(default_factory=Delays)
    """Of accounts in the other host."""
    beside: Delays = field(default_factory=Delays)
    """Of those in the busy one's."""
    messages: int = 0
    read: int = 0
    """Messages that the library has answered with a receipt when the last one was sent."""
    behind: float = 0.0
    """Seconds from the last message until all were answered."""
    memory: list[float] = field(default_factory=list)
    """MB (PSS) of the host, every second; the first is before the messages."""
    cpu: float = 0.0
    """Seconds of the host's CPU for all messages, the others' connections included."""
    crossed: Counter[str] = field(default_factory=Counter)
    """Calls from Go into Python in that host meanwhile, and bytes: events and log lines."""

    @property
    def events(self) -> int:
        """Events that the messages account for: a reconnect has two, and one may be under way for each account."""
        return self.crossed["event-calls"] - 2 * len(self.beside.online) - OTHERS * 2

    def __str__(self) -> str:
        calls = self.crossed
        return (
            f"{self.messages} messages to one account: {self.read} read at their end, all {self.behind:.1f} s later, "
            f"{self.cpu:.1f} s of CPU, {self.memory[0]:.0f} MB before, {max(self.memory):.0f} MB at most, "
            f"{self.memory[-1]:.0f} MB after; calls into Python in all {calls['event-calls']} events, "
            f"{calls['log-calls']} log lines ({calls['log-bytes']} bytes); reconnects, their number with the p99 of "
            f"(offline, online): {self.beside} beside it, {self.apart} in another host"
        )


async def measure(hosts: Hosts, counts: Path, messages: int, seconds: float, *, known: bool) -> Found:
    """`known`: the device has the groups' keys; without, it can open no message and asks for each again."""
    hosts.counts = counts
    hosts.restart(sessions_per_worker=1 + OTHERS)
    busy, *beside = await hosts.link_many(1 + OTHERS)
    apart = [await hosts.link(number) for number in range(1 + OTHERS, 1 + 2 * OTHERS)]
    assert sorted(hosts.workers.values()) == [OTHERS, 1 + OTHERS]
    assert {one.session.worker for one in beside} == {busy.session.worker}
    assert busy.account.bundle is not None
    writers = [Group(number, known=known).messages(busy.account.bundle) for number in range(GROUPS)]
    nodes = [next(writer) for writer in itertools.islice(itertools.cycle(writers), messages)]
    host = psutil.Process(busy.session.pid)
    counter = f".{host.pid}"
    found = Found(messages=messages)
    found.memory.append(_memory(host))
    spent, before, receipts = _cpu(host), _counted(counts, counter), busy.account.received["receipt"]
    watching = asyncio.create_task(_watch(host, found.memory))
    coming = asyncio.create_task(_come_and_go(hosts, beside, found.beside, apart, found.apart))
    await _send(hosts, busy, nodes, seconds)
    found.read = busy.account.received["receipt"] - receipts
    found.behind = await until(lambda: busy.account.received["receipt"] - receipts >= messages, within=BEHIND)
    coming.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await coming
    watching.cancel()
    found.cpu = _cpu(host) - spent
    found.crossed = _counted(counts, counter) - before
    found.memory.append(_memory(host))
    assert not busy.news(), "it stayed connected"
    return found


async def _send(hosts: Hosts, busy: Member, nodes: list[Node], seconds: float) -> None:
    began = time.monotonic()
    for at, node in enumerate(nodes):
        due = began + at * seconds / len(nodes)
        if (wait := due - time.monotonic()) > 0.001:
            await asyncio.sleep(wait)
        hosts.whatsapp.deliver(busy.phone, node)


async def _come_and_go(hosts: Hosts, one: list[Member], of_one: Delays, two: list[Member], of_two: Delays) -> None:
    """Break each one's connection again and again, for ever."""

    await asyncio.gather(
        *(_reconnect(hosts, each, of_one) for each in one), *(_reconnect(hosts, each, of_two) for each in two)
    )


async def _reconnect(hosts: Hosts, member: Member, delays: Delays) -> None:
    while True:
        member.forget()
        next_login, moment = member.account.logins + 1, time.monotonic()
        hosts.whatsapp.drop(member.phone)
        await _soon(member.news, member)
        if d.Offline() in member.news():  # but for one that came late: then the connection after it comes first
            delays.offline.append(time.monotonic() - moment)
        await _soon(partial(_logged_in, member, next_login), member)
        moment = time.monotonic()
        await _soon(member.back, member)
        delays.online.append(time.monotonic() - moment)
        await asyncio.sleep(PAUSE)


def _logged_in(member: Member, times: int) -> bool:
    return member.account.logins >= times


async def _soon(condition: Callable[[], object], member: Member) -> None:
    try:
        await until(condition, within=30, step=0.001)
    except TimeoutError:
        raise AssertionError(f"{member.news()} after {member.account.logins} logins") from None


async def _watch(host: psutil.Process, memory: list[float]) -> None:
    while True:
        await asyncio.sleep(1)
        memory.append(_memory(host))


def _memory(process: psutil.Process) -> float:
    return float(process.memory_full_info().pss) / MEGABYTE


def _cpu(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def _counted(folder: Path, suffix: str) -> Counter[str]:
    return Counter({path.stem: path.stat().st_size for path in folder.iterdir() if path.suffix == suffix})


def _percentile(times: list[float], percent: int) -> float:
    return statistics.quantiles(times, n=100)[percent - 1] if len(times) > 1 else float("nan")
