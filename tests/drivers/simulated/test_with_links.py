"""The scripted phone: WhatsApp's timing, and each row of its table."""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from roundtrip.api.problems import STATUS
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.drivers.simulated.driver import SimulatedDriver
from roundtrip.links.payloads import Snapshot
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.links import KEY, OTHER, Stage, staged

A = SimulateAction


class Phone:
    """A service with a simulated phone on a clock that stands still."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def seen(self) -> Snapshot:
        return self.stage.service.snapshot(KEY)

    async def start(self, phone: str | None = None) -> None:
        await self.stage.start(KEY, phone)
        await self.stage.clock.advance(0.5)

    async def act(self, action: SimulateAction, then: float = 0.0) -> Snapshot:
        await self.stage.service.simulate(KEY, action)
        await self.stage.clock.advance(then)
        return self.seen()

    async def link(self) -> None:
        await self.start()
        await self.act(A.SCAN, 1.0)
        assert self.seen().state is LinkState.CONNECTED

    def types(self) -> list[str]:
        return self.stage.publisher.types(KEY)


async def play(tmp_path: Path, **changes: Any) -> AsyncIterator[Phone]:
    driver = SimulatedDriver(1.0, None)
    async with staged(tmp_path, driver, **changes) as stage:
        driver._clock = stage.clock
        yield Phone(stage)


@pytest.fixture
async def phone(tmp_path: Path) -> AsyncIterator[Phone]:
    async for phone in play(tmp_path):
        yield phone


async def test_six_codes_on_whatsapps_timing(phone: Phone) -> None:
    clock = phone.stage.clock
    await phone.stage.start()
    await clock.advance(0.5)
    seen = []
    for lasts in (60.0, 20.0, 20.0, 20.0, 20.0, 20.0):
        seen.append((phone.seen().qr, phone.seen().index, phone.seen().total))
        await clock.advance(lasts)
    assert [index for _, index, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {total for *_, total in seen} == {6}
    assert len({qr for qr, *_ in seen}) == 6
    assert phone.seen().state is LinkState.QR_EXPIRED
    assert phone.types() == ["Connecting", *["Qr"] * 6, "QrExpired"]
    await phone.start()  # one press starts anew
    assert phone.seen().state is LinkState.QR


async def test_a_scan_links_the_same_account_each_time(phone: Phone) -> None:
    await phone.link()
    first = phone.seen()
    assert first.phone_number
    assert re.fullmatch(r"\+1\d{3}55501\d\d", first.phone_number)
    assert first.display_name
    await phone.act(A.LOGOUT)
    await phone.link()
    again = phone.seen()
    assert (again.phone_number, again.display_name) == (first.phone_number, first.display_name)
    assert again.link_id != first.link_id
    assert phone.types()[:4] == ["Connecting", "Qr", "Paired", "Connected"]


async def test_a_pairing_code_is_typed_on_the_phone_it_was_asked_for(phone: Phone) -> None:
    await phone.start("+49 1512 3456789")
    assert phone.seen().state is LinkState.PAIRING_CODE
    await phone.act(A.SCAN, 1.0)
    assert phone.seen().state is LinkState.CONNECTED
    assert phone.seen().phone_number == "+4915123456789"


async def test_a_pairing_code_ends(phone: Phone) -> None:
    await phone.start("+4915123456789")
    await phone.stage.clock.advance(160.5)
    assert phone.seen().state is LinkState.QR_EXPIRED


@pytest.mark.parametrize(
    ("action", "wait", "state", "event"),
    [
        (A.DISCONNECT, 6.0, LinkState.DISCONNECTED, "Disconnected"),
        (A.LOGOUT, 0.0, LinkState.LOGGED_OUT, "LoggedOut"),
        (A.REPLACE, 0.0, LinkState.REPLACED, "Replaced"),
        (A.BAN, 0.0, LinkState.BANNED, "Banned"),
        (A.DEGRADE, 0.0, LinkState.DEGRADED, "Degraded"),
        (A.OUTDATED, 0.0, LinkState.CLIENT_OUTDATED, "ClientOutdated"),
        (A.CONNECT_FAILURE, 0.0, LinkState.DISCONNECTED, "Disconnected"),
        (A.CRASH, 0.0, LinkState.CONNECTED, "Connected"),
        (A.CRASH, 3.0, LinkState.CONNECTED, "Connected"),
        (A.UNREACHABLE, 6.0, LinkState.DISCONNECTED, "Disconnected"),
        (A.DIE_SILENTLY, 33.0, LinkState.CONNECTED, "Connected"),
        (A.STREAM_ERROR, 3.0, LinkState.CONNECTED, "Connected"),
        (A.FLAP, 16.0, LinkState.DEGRADED, "Degraded"),
        (A.FLAP, 90.0, LinkState.CONNECTED, "Connected"),
        (A.HANG, 0.0, LinkState.CONNECTED, "Connected"),
    ],
)
async def test_what_a_linked_phone_can_do(
    phone: Phone, action: SimulateAction, wait: float, state: LinkState, event: str
) -> None:
    await phone.link()
    snapshot = await phone.act(action, wait)
    assert snapshot.state is state
    assert phone.types()[-1] == event


async def test_disconnect_and_reconnect(phone: Phone) -> None:
    await phone.link()
    await phone.act(A.DISCONNECT, 6.0)
    assert (await phone.act(A.RECONNECT)).state is LinkState.CONNECTED
    assert phone.types()[-2:] == ["Disconnected", "Connected"]


async def test_degrade_and_restore(phone: Phone) -> None:
    await phone.link()
    await phone.act(A.DEGRADE)
    assert (await phone.act(A.RESTORE)).state is LinkState.CONNECTED


async def test_unreachable_until_the_network_is_back(phone: Phone) -> None:
    await phone.link()
    await phone.act(A.UNREACHABLE, 300.0)
    assert phone.seen().state is LinkState.DISCONNECTED
    await phone.act(A.RECONNECT, 61.0)
    assert phone.seen().state is LinkState.CONNECTED


async def test_a_hung_session_is_replaced(phone: Phone) -> None:
    await phone.link()
    await phone.act(A.HANG, 95.0)
    assert phone.stage.metrics.restarts == 1
    await phone.stage.clock.advance(3.0)
    assert phone.seen().state is LinkState.CONNECTED


async def test_expire_ends_the_codes(phone: Phone) -> None:
    await phone.start()
    assert (await phone.act(A.EXPIRE)).state is LinkState.QR_EXPIRED


@pytest.mark.parametrize("action", [A.SCAN, A.EXPIRE, A.RECONNECT, A.RESTORE])
async def test_what_a_linked_phone_cannot_do(phone: Phone, action: SimulateAction) -> None:
    await phone.link()
    if action is A.RESTORE:
        await phone.act(A.DISCONNECT)
    with pytest.raises(LinkError) as refused:
        await phone.act(action)
    assert (refused.value.code, STATUS[refused.value.code]) == ("action_impossible", 409)


@pytest.mark.parametrize("action", [A.DISCONNECT, A.LOGOUT, A.REPLACE, A.FLAP, A.DIE_SILENTLY])
async def test_what_an_unlinked_phone_cannot_do(phone: Phone, action: SimulateAction) -> None:
    await phone.start()
    with pytest.raises(LinkError):
        await phone.act(action)


async def test_no_link_no_phone(phone: Phone) -> None:
    with pytest.raises(LinkError) as refused:
        await phone.act(A.SCAN)
    assert refused.value.code == "link_not_found"
    await phone.link()
    await phone.stage.service.logout(KEY)
    with pytest.raises(LinkError):
        await phone.act(A.SCAN)


async def test_it_scans_by_itself_with_scan_after(tmp_path: Path) -> None:
    driver = SimulatedDriver(1.0, 5.0)
    async with staged(tmp_path, driver) as stage:
        driver._clock = stage.clock
        await stage.start()
        await stage.clock.advance(4.9)
        assert stage.state() is LinkState.QR
        await stage.clock.advance(1.0)
        assert stage.state() is LinkState.CONNECTED


async def test_it_scans_as_soon_as_there_is_a_code(tmp_path: Path) -> None:
    driver = SimulatedDriver(1.0, 0.0)
    async with staged(tmp_path, driver) as stage:
        driver._clock = stage.clock
        await stage.start()
        await stage.clock.advance(2.0)
        assert stage.publisher.types() == ["Connecting", "Qr", "Paired", "Connected"]


async def test_speed_divides_every_time(tmp_path: Path) -> None:
    driver = SimulatedDriver(100.0, None)
    async with staged(tmp_path, driver) as stage:
        driver._clock = stage.clock
        await stage.start()
        await stage.clock.advance(1.7)
        assert stage.publisher.types() == ["Connecting", *["Qr"] * 6, "QrExpired"]


async def test_a_linked_phone_comes_back_after_a_restart(tmp_path: Path) -> None:
    async for phone in play(tmp_path):
        await phone.link()
        before = phone.seen()
        (store,) = phone.stage.store.sessions.glob("*.db")
        assert stat.S_IMODE(store.stat().st_mode) == 0o600
    async for phone in play(tmp_path, restore=False):
        task = asyncio.create_task(phone.stage.service.restore())
        await phone.stage.clock.advance(1.0)
        await task
        assert phone.seen().state is LinkState.CONNECTED
        assert (phone.seen().link_id, phone.seen().phone_number) == (before.link_id, before.phone_number)


async def test_two_bots_have_two_accounts(phone: Phone) -> None:
    await phone.link()
    await phone.stage.start(OTHER)
    await phone.stage.clock.advance(0.5)
    await phone.stage.service.simulate(OTHER, A.SCAN)
    await phone.stage.clock.advance(1.0)
    assert phone.stage.service.snapshot(OTHER).phone_number != phone.seen().phone_number
    assert phone.stage.service.snapshot(OTHER).reason_code is None
    await phone.act(A.REPLACE)
    assert phone.stage.state(OTHER) is LinkState.CONNECTED


async def test_a_store_that_cannot_be_written_costs_the_pairing_and_nothing_else(
    phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    await phone.stage.start()
    await phone.stage.clock.advance(1.0)
    with monkeypatch.context() as patch:
        patch.setattr("roundtrip.drivers.simulated.write_account", full)
        with pytest.raises(LinkError):
            await phone.stage.service.simulate(KEY, A.SCAN)
        await phone.stage.clock.advance(2.0)
    assert failures == []
    assert phone.stage.state() is LinkState.QR
    assert (await phone.stage.service.simulate(KEY, A.SCAN)).state is LinkState.PAIRED
