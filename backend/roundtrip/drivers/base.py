"""What a WhatsApp driver must do, and what it reports. Drivers stand side by side and share no state."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec


class Report(msgspec.Struct, frozen=True, tag=True, rename="camel"):
    """One thing that a session saw, in the order in which it happened. Tagged, so it can cross a pipe."""


class QrShown(Report, frozen=True):
    """A new code to draw; it ends the one before. `ttl` is in seconds. `qr` is a secret."""

    qr: str
    index: int
    total: int
    ttl: float


class PairingCodeShown(Report, frozen=True):
    """A code for the phone's keyboard. `ttl` is in seconds. `code` is a secret."""

    code: str
    ttl: float


class CodesUsedUp(Report, frozen=True):
    """Nobody scanned in time: the session cannot pair any more."""


class PairSucceeded(Report, frozen=True):
    """The phone accepted; a reconnect follows. `phone_number` is digits with a leading plus."""

    phone_number: str


class Online(Report, frozen=True):
    """Authenticated, the first time or again. `phone_number` is digits with a leading plus."""

    phone_number: str
    display_name: str


class KeepAliveLost(Report, frozen=True):
    """Pings are unanswered, the connection still stands."""


class KeepAliveRestored(Report, frozen=True):
    pass


class Offline(Report, frozen=True):
    """Closed by the network; the library tries again by itself."""


class LoggedOutByPhone(Report, frozen=True):
    """The device was removed; its keys are worthless. `reason` is WhatsApp's number, as text."""

    reason: str


class StreamReplaced(Report, frozen=True):
    """The same keys are used elsewhere."""


class TemporaryBan(Report, frozen=True):
    """`expires_in` is in seconds, None when WhatsApp names no end; `code` is 0 when it names none."""

    code: int
    expires_in: float | None


class Outdated(Report, frozen=True):
    """WhatsApp refuses this version of the library."""


class ConnectFailed(Report, frozen=True):
    """WhatsApp refused the connection for another reason."""

    reason: str


class StreamFailed(Report, frozen=True):
    """A stream error that has no row of its own; the connection may or may not survive it."""

    code: str


class ConnectStage(enum.StrEnum):
    """How far a start came before it failed."""

    DIAL = "dial"
    """TCP, proxy, TLS or the websocket."""
    HANDSHAKE = "handshake"
    """The Noise handshake."""
    UNKNOWN = "unknown"
    """An error of the library that has no row of its own."""


class Unreachable(Report, frozen=True):
    """The session's start failed: no connection was ever authenticated. `message` holds no secret."""

    message: str
    stage: ConnectStage = ConnectStage.DIAL


class WorkerDied(Report, frozen=True):
    """The session's process is gone. `exit_status` as `subprocess` gives it: negative for a signal. `unresponsive`: the
    driver ended it, for it gave no sign of life any more."""

    exit_status: int
    unresponsive: bool = False


class SessionSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a session needs. `store` is the file that holds the account's keys; missing means not paired yet.
    `phone_number` asks for a pairing code. `traceparent` is the link's context."""

    link_id: str
    store: Path
    phone_number: str | None
    traceparent: str | None = None
    seed: str = ""
    """Stands for the bot, the same each time: for a driver that makes its accounts up. Says nothing about it."""


class DeviceNotRemovedError(OSError):
    """WhatsApp could not be asked to remove the device: the session has ended, the account's keys are still there."""


class Session(Protocol):
    """One running session. Reports stop once `stop` or `logout` has returned."""

    async def stop(self) -> None:
        """End it and keep the account's keys."""

    async def logout(self) -> None:
        """Remove the device from the account, end the session, delete the store. Bounded to some seconds.

        Raises `DeviceNotRemovedError` when WhatsApp did not confirm: the store is kept, so that a later session can
        try again.
        """

    async def alive(self) -> bool | None:
        """Whether the connection that stands was authenticated (a Connected event came for it) and is connected; None
        when the library does not answer in time."""


class Driver(Protocol):
    """Starts sessions."""

    name: str

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> Session:
        """Start a session. `report` is called on the event loop. Raises `OSError` when none can be started."""

    async def close(self) -> None:
        """Stop every session within a few seconds."""


_SIGKILL: Final = -9


class Exit(enum.StrEnum):
    """How a worker ended: the label of `roundtrip_worker_exits_total`."""

    STOPPED = "stopped"
    """We ended it."""
    EXITED = "exited"
    """By itself, in order."""
    CRASHED = "crashed"
    KILLED = "killed"
    """From outside: by the kernel for want of memory, or by somebody."""
    UNRESPONSIVE = "unresponsive"
    """We ended it, for it no longer answered."""


def exit_of(status: int) -> Exit:
    """What an exit status says, as `subprocess` gives it: negative for a signal."""
    if status == 0:
        return Exit.EXITED
    return Exit.KILLED if status == _SIGKILL else Exit.CRASHED
