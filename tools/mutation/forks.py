"""Work in forked processes: several at once, each with a deadline, each ended with all that it started."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

BROKEN = 70
"""Exit status of a child whose work raised: the tool's own fault, never a verdict."""
LATE = -1
"""Status of a child that was still running at its deadline."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """`work` runs in the child, which exits with what it returns. `limit` is in seconds."""

    name: T
    work: Callable[[], int]
    limit: float


def run(jobs: Iterable[Job[T]], at_once: int, log: Path, until: float = math.inf) -> Iterator[tuple[T, int]]:
    """Each job's name and exit status (`LATE` past its limit; negative signal numbers count as late too), in the order
    in which they end. What the children print goes to `log`. At `until`, on the monotonic clock, what still runs is
    ended without a status."""
    waiting = iter(jobs)
    running: dict[int, tuple[Job[T], float]] = {}
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        while time.monotonic() < until:
            while len(running) < at_once and (job := next(waiting, None)) is not None:
                running[_fork(job.work, log)] = (job, time.monotonic() + job.limit)
            if not running:
                return
            for pid, (job, deadline) in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended and time.monotonic() < deadline:
                    continue
                _end(pid, reap=not ended)
                del running[pid]
                yield job.name, os.waitstatus_to_exitcode(status) if ended else LATE
            time.sleep(0.005)
    finally:
        for pid in running:
            _end(pid, reap=True)


def _fork(work: Callable[[], int], log: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        _end_with_parent()
        os.setsid()  # a group of its own, so that what its tests start ends with it
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(file, stream)
        status = work()
    except BaseException:  # noqa: BLE001  # nothing may run on in the child as if it were the parent
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _end_with_parent() -> None:
    """A run that is killed leaves no child behind (Linux: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _end(pid: int, *, reap: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if reap:  # on a busy machine it may not have got as far as a group of its own: then it has started nothing either
        os.kill(pid, signal.SIGKILL)
    if reap:
        os.waitpid(pid, 0)
