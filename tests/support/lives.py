"""What tests of the contract do with a link, a page, and the metrics' text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.support.program import Api

FIVE = ("acked", "received", "superseded", "expired", "discarded")
"""How an event can end."""


async def connect(user: Api, bot: str = "bot") -> None:
    """Link an account: the code is shown, the phone scans it, WhatsApp lets the device in."""
    await user.link(bot)
    await user.state("qr", bot)
    await user.simulate("scan", bot)
    await user.state("connected", bot)


async def settled(condition: Callable[[], Awaitable[Any]], within: float = 10) -> Any:
    """Ask until the answer is not empty; the answer."""
    async with asyncio.timeout(within):
        while not (answer := await condition()):
            await asyncio.sleep(0.01)
    return answer


async def ended(user: Api, count: int, outcome: str, bot: str = "bot", within: float = 10) -> list[Any]:
    """Wait until so many events of a bot have this outcome; they."""

    async def look() -> list[Any]:
        found = [event for event in await user.ledger(bot) if event["outcome"] == outcome]
        return found if len(found) >= count else []

    found: list[Any] = await settled(look, within)
    return found


def total(samples: Mapping[str, float], name: str, **labels: str) -> float:
    """The sum over the samples of a metric that have these labels."""
    return sum(value for sample, value in samples.items() if _has(sample, name, labels))


def _has(sample: str, name: str, labels: Mapping[str, str]) -> bool:
    held = dict(re.findall(r'(\w+)="([^"]*)"', sample))
    return sample.partition("{")[0] == name and labels.items() <= held.items()


async def balance(user: Api) -> dict[str, float]:
    """Events created, ended and pending, by the metrics, in one reading."""
    samples = await user.metrics()
    return {
        "created": total(samples, "roundtrip_events_created_total"),
        "ended": total(samples, "roundtrip_events_resolved_total"),
        "pending": total(samples, "roundtrip_events_pending"),
    }
