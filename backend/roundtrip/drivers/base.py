"""What a WhatsApp driver must do (`Driver`, `Session`), and what its sessions report (`Report` and its subclasses).

To add a driver:
1. Write a package beside `neonize/` and `simulated/` with a class that implements `Driver`, and one that implements
   `Session`. Neither derives from anything here, and no driver imports `roundtrip.links` or another driver.
2. `Driver.start` begins a session for a `SessionSpec` and returns without waiting for WhatsApp. What happens then is
   passed to the `report` callback: on the event loop, one report per occurrence, in order. The usual order is
   `QrShown`* or `PairingCodeShown`, `PairSucceeded`, `Online`, then `Offline`/`Online` as the connection changes.
   `CodesUsedUp`, `LoggedOutByPhone`, `StreamReplaced`, `TemporaryBan`, `Outdated`, `ConnectFailed`, `Unreachable` and
   `WorkerDied` and `SessionCrashes` are a session's last report: the link stops it, and decides whether to start
   another one.
   What each report does to a link is the table of `links/machine.py`.
3. The account's keys live at `SessionSpec.store` as one SQLite file (`key_files.py` says which are usable), readable by
   its owner only. `stop` keeps it; `logout` deletes it, or raises `DeviceNotRemovedError` and keeps it.
4. A session that runs in a worker process has the attributes `pid` and `worker` (its name), which are shown to the
   operator, and its driver implements `HasWorkers`. A driver whose
   phones can be operated by hand implements `simulated.SupportsSimulate` besides.
5. Name it in `Settings.whatsapp_driver` and build it in `app.make_driver`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:  # a worker imports this module, and needs no telemetry
    from roundtrip.telemetry.tracing import RequestTracer

_SIGKILL: Final = -9
_SIGALRM: Final = -14


class Report(msgspec.Struct, frozen=True, tag=True, rename="camel"):
    """One thing that happened to a session. Tagged, so that it can be serialized."""


class QrShown(Report, frozen=True):
    """A new code to draw, in place of the one before: number `index` of `total`, from 1. `ttl` is in seconds. `qr` is
    a secret."""

    qr: str
    index: int
    total: int
    ttl: float


class PairingCodeShown(Report, frozen=True):
    """A code for the phone's keyboard. `ttl` is in seconds. `code` is a secret."""

    code: str
    ttl: float


class CodesUsedUp(Report, frozen=True):
    """No scan in time: the session cannot pair any more."""


class PairSucceeded(Report, frozen=True):
    """The phone accepted the link; a reconnect follows. `phone_number` is digits with a leading plus."""

    phone_number: str


class Online(Report, frozen=True):
    """Authenticated, the first time or again. `phone_number` is digits with a leading plus."""

    phone_number: str
    display_name: str


class KeepAliveLost(Report, frozen=True):
    """Pings go unanswered on a connection that is still open."""


class KeepAliveRestored(Report, frozen=True):
    """Pings are answered again, after `KeepAliveLost`."""


class Offline(Report, frozen=True):
    """The connection was closed; the library reconnects by itself."""


class LoggedOutByPhone(Report, frozen=True):
    """The device was removed from the account; its keys are useless. `reason` is WhatsApp's number, as text."""

    reason: str


class StreamReplaced(Report, frozen=True):
    """Another session uses the same keys."""


class TemporaryBan(Report, frozen=True):
    """`expires_in` is in seconds, None when WhatsApp gives no end; `code` is WhatsApp's number, or 0 without one."""

    code: int
    expires_in: float | None


class Outdated(Report, frozen=True):
    """WhatsApp refuses this version of the library."""


class ConnectFailed(Report, frozen=True):
    """WhatsApp refused the connection for another reason: its number, or a name of ours."""

    reason: str


class StreamFailed(Report, frozen=True):
    """A stream error that has no report of its own; the connection may or may not survive it."""

    code: str


class ConnectStage(enum.StrEnum):
    """How far a start came before it failed."""

    DIAL = "dial"
    """TCP, proxy, TLS or the websocket."""
    HANDSHAKE = "handshake"
    """The Noise handshake."""
    UNKNOWN = "unknown"
    """An error of the library of no known kind."""


class Unreachable(Report, frozen=True):
    """The session's start failed: no connection was ever authenticated. `message` holds no secret."""

    message: str
    stage: ConnectStage = ConnectStage.DIAL


class WorkerDied(Report, frozen=True):
    """The session's process has exited. `exit_status` is negative for a signal, as in `subprocess`. `unresponsive`: the
    driver killed it, because its heartbeats had stopped."""

    exit_status: int
    unresponsive: bool = False


class SessionCrashes(Report, frozen=True):
    """The session's process dies again and again though no other session is in it: it is not started any more."""


class SessionSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What a session needs. `store` is the file of the account's keys; missing means not paired yet. With
    `phone_number`, a pairing code is requested in place of QR codes. `traceparent` is the link's trace context.
    `account` is the number of a paired account, where it is known: sessions of one account keep apart."""

    link_id: str
    store: Path
    phone_number: str | None
    traceparent: str | None = None
    seed: str = ""
    """The same for the same bot, and unrelated to it: for a driver that makes its accounts up."""
    account: str | None = None


class DeviceNotRemovedError(OSError):
    """WhatsApp did not confirm that the device is removed: the session has ended, the account's keys are kept."""


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
        """Whether there is a connection, and it is authenticated; None when the library does not answer in time."""


class Driver(Protocol):
    """Starts sessions, and holds those that run."""

    name: str

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> Session:
        """Start a session. `report` is called on the event loop. Raises `OSError` when none can be started."""

    async def close(self) -> None:
        """Stop every session within a few seconds."""


class Exit(enum.StrEnum):
    """Why a worker process exited: the label of `roundtrip_worker_exits_total`."""

    STOPPED = "stopped"
    """The driver stopped it, or did not prolong its time."""
    EXITED = "exited"
    """By itself, with status 0."""
    CRASHED = "crashed"
    PANICKED = "panicked"
    """The Go library ended the process."""
    KILLED = "killed"
    """By SIGKILL: from the kernel when memory ran out, or from an operator."""
    UNRESPONSIVE = "unresponsive"
    """The driver killed it, because its heartbeats had stopped."""
    MEMORY = "memory"
    """The driver ended it, because it used more memory than it may."""


UNEXPLAINED: Final = frozenset({Exit.CRASHED, Exit.PANICKED, Exit.UNRESPONSIVE})
"""Deaths for which a session of that worker may be the reason."""

DEATHS: Final = UNEXPLAINED | {Exit.KILLED, Exit.MEMORY}
"""Ends that nobody asked for."""


def exit_of(status: int, *, panicked: bool = False) -> Exit:
    """The cause for an exit status, which is negative for a signal, as in `subprocess`. `panicked`: the Go runtime said
    so."""
    if status == 0:
        return Exit.EXITED
    if status == _SIGALRM:
        return Exit.STOPPED
    if status == _SIGKILL:
        return Exit.KILLED
    return Exit.PANICKED if panicked else Exit.CRASHED


class MoveCause(enum.StrEnum):
    """Why a session goes on in another worker."""

    PAIRED = "paired"
    BALANCE = "balance"
    """Its worker is to end: for the good of another session, which cannot be stopped in any other way, or because it is
    worn or not needed."""
    MEMORY = "memory"
    DEATH = "death"


class WorkerView(msgspec.Struct, frozen=True, rename="camel"):
    """One worker process for the operator. `memory` is in bytes, None while it is not known."""

    id: str
    pid: int | None
    sessions: int
    memory: int | None


@runtime_checkable
class SupportsDeadline(Protocol):
    """A driver whose sessions can be made to end by themselves, even when this process does not run at that time."""

    def run_until(self, deadline: float) -> None:
        """End every session at this time by `clock.steady`, in seconds, unless a later one is named before."""


@runtime_checkable
class HasWorkers(Protocol):
    """A driver whose sessions run in worker processes."""

    def observe(self, tracer: RequestTracer, on_exit: Callable[[Exit], None]) -> None:
        """Trace the moves of sessions, and call `on_exit` for each worker that exits."""

    def workers(self) -> Sequence[WorkerView]:
        """The workers that run now."""


def observe(
    driver: Driver, tracer: RequestTracer, on_exit: Callable[[Exit], None]
) -> Callable[[], Sequence[WorkerView]]:
    """Trace and count what becomes of a driver's workers, and return what lists them; a driver may have none."""
    if not isinstance(driver, HasWorkers):
        return tuple
    driver.observe(tracer, on_exit)
    return driver.workers
