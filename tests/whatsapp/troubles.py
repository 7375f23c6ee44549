"""What goes wrong at the stand-in's door: at which stage of a connection, and how."""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass, field


class Stage(enum.StrEnum):
    """How far a connection comes, in order."""

    TCP = "tcp"
    PROXY = "proxy"
    """The answer to the client's CONNECT."""
    TLS = "tls"
    WEBSOCKET = "websocket"
    NOISE = "noise"
    """The answer to the client's hello."""
    LOGIN = "login"
    """Everything is encrypted by now, and the client waits for `success` or for codes."""


class How(enum.Enum):
    REFUSE = enum.auto()
    """By the protocol's own means: a status, an alert, or the end of the connection."""
    HANG = enum.auto()
    """No word, ever; what the client says is taken and ignored."""
    LIE = enum.auto()
    """An answer that cannot be right. At the login there is none: see `StandIn.refuse`."""


@dataclass
class Trouble:
    """`phone`: only that account's device, which is known from LOGIN on. `times`: how often, None for ever."""

    stage: Stage
    how: How
    phone: str | None = None
    times: int | None = None


@dataclass
class Troubles:
    """The door: every connection passes each stage's gate."""

    present: list[Trouble] = field(default_factory=list)
    met: list[tuple[float, Trouble]] = field(default_factory=list)
    """When (monotonic), and what: one entry for each connection that was turned away or left hanging."""
    arrivals: list[float] = field(default_factory=list)
    """When each connection came."""

    def arrived(self) -> None:
        self.arrivals.append(time.monotonic())

    def at(self, stage: Stage, phone: str | None = None) -> How | None:
        """What happens to a connection at this stage; None when it passes."""
        for trouble in self.present:
            if trouble.stage is stage and trouble.phone in (None, phone):
                if trouble.times is not None:
                    trouble.times -= 1
                    if not trouble.times:
                        self.present.remove(trouble)
                self.met.append((time.monotonic(), trouble))
                return trouble.how
        return None

    def over(self) -> None:
        """All is well again, for whoever comes from now on."""
        self.present.clear()


async def swallow(reader: asyncio.StreamReader) -> None:
    """Take what comes until the other end goes away."""
    while await reader.read(65536):
        pass
