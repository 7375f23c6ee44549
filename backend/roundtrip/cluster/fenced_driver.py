"""A WhatsApp driver whose sessions live only as long as this node's lease.

No session starts without it, and all end when it does, by this machine's own clock: another node may start them from
then on, and WhatsApp lets one session of an account replace the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from roundtrip.drivers import base as d
from roundtrip.drivers.base import Driver, Report, Session, SessionSpec, SupportsDeadline
from roundtrip.drivers.simulated import SimulateAction, SupportsSimulate
from roundtrip.outbox.postgres.lease import NodeLease

log = structlog.get_logger(__name__)


class FencedSession:
    """A session, and whether it is still this node's to have."""

    def __init__(
        self, session: Session, report: Callable[[Report], None], gone: Callable[[FencedSession], None]
    ) -> None:
        self._session = session
        self._report = report
        self._gone = gone
        self.pid = getattr(session, "pid", None)

    async def stop(self) -> None:
        """As `Session.stop`."""
        self._gone(self)
        await self._session.stop()

    async def logout(self) -> None:
        """As `Session.logout`."""
        self._gone(self)
        await self._session.logout()

    async def alive(self) -> bool | None:
        """As `Session.alive`."""
        return await self._session.alive()

    async def end(self) -> None:
        """The lease has ended: stop, and have the link find out, so that it starts again when it may."""
        await self._session.stop()
        self._report(d.WorkerDied(0))


class FencedDriver:
    """A `Driver` around another."""

    def __init__(self, driver: Driver, lease: NodeLease) -> None:
        self.name = driver.name
        self._driver = driver
        self._lease = lease
        self._sessions: set[FencedSession] = set()
        self.cleared: Callable[[], bool] = lambda: True
        """Whether links of an earlier lease, which others may have by now, have been given up."""
        self._ending: set[asyncio.Task[None]] = set()
        if isinstance(driver, SupportsDeadline):  # its sessions end even while this process is paused
            driver.run_until(lease.deadline)
            lease.on_renewed = driver.run_until

    async def start(self, spec: SessionSpec, report: Callable[[Report], None]) -> Session:
        """As `Driver.start`. Raises `OSError` without a lease."""
        if not self._may():
            raise OSError("this node's lease has ended")
        session = FencedSession(await self._driver.start(spec, report), report, self._sessions.discard)
        self._sessions.add(session)
        if not self._may():  # it ended meanwhile
            self._sessions.discard(session)
            await session.stop()
            raise OSError("this node's lease has ended")
        return session

    def _may(self) -> bool:
        return self._lease.held and self.cleared()

    def lease_changed(self, held: bool) -> None:
        """The lease has ended, or was taken again."""
        if held:
            return
        ended, self._sessions = self._sessions, set()
        if ended:
            log.error("sessions_end_with_lease", count=len(ended))
        for session in ended:
            task = asyncio.create_task(session.end(), name="session-without-lease")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """As `Driver.close`."""
        await self._driver.close()


class FencedPhones(FencedDriver):
    """The same around a driver whose phones can be operated by hand."""

    def __init__(self, driver: Driver, phones: SupportsSimulate, lease: NodeLease) -> None:
        super().__init__(driver, lease)
        self._phones = phones

    async def simulate(self, link_id: str, action: SimulateAction) -> bool:
        """As `SupportsSimulate.simulate`."""
        return await self._phones.simulate(link_id, action)


def fenced(driver: Driver, lease: NodeLease) -> FencedDriver:
    """A driver whose sessions end with the lease."""
    return FencedPhones(driver, driver, lease) if isinstance(driver, SupportsSimulate) else FencedDriver(driver, lease)
