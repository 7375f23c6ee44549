"""A logout by the user, in every state, and the removal of the device that goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roundtrip import events as e
from roundtrip.drivers import base as d
from roundtrip.errors import StorageError
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from roundtrip.links.storage import StoreError
from tests.support.links import (
    KEY,
    ONLINE,
    PHONE,
    QR,
    settle,
    staged,
)

FULL = StorageError("outbox_full", "full")


REACHED: dict[LinkState, tuple[d.Report, ...]] = {
    LinkState.CONNECTING: (),
    LinkState.QR: (QR,),
    LinkState.PAIRING_CODE: (d.PairingCodeShown("ABCD-1234", 160.0),),
    LinkState.PAIRED: (QR, d.PairSucceeded(PHONE)),
    LinkState.CONNECTED: (d.PairSucceeded(PHONE), ONLINE),
    LinkState.DEGRADED: (d.PairSucceeded(PHONE), ONLINE, d.KeepAliveLost()),
    LinkState.DISCONNECTED: (d.PairSucceeded(PHONE), ONLINE, d.Offline()),
    LinkState.QR_EXPIRED: (QR, d.CodesUsedUp()),
    LinkState.LOGGED_OUT: (d.PairSucceeded(PHONE), ONLINE, d.LoggedOutByPhone("401")),
    LinkState.REPLACED: (d.PairSucceeded(PHONE), ONLINE, d.StreamReplaced()),
    LinkState.BANNED: (d.PairSucceeded(PHONE), ONLINE, d.TemporaryBan(101, 60.0)),
    LinkState.CLIENT_OUTDATED: (d.Outdated(),),
    LinkState.FAILED: (d.ConnectFailed("x"),),
}


S = LinkState


@pytest.mark.parametrize("state", REACHED, ids=str)
@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
async def test_logout_works_in_every_state(tmp_path: Path, state: LinkState, dead: bool) -> None:
    async with staged(tmp_path, disconnect_grace=1.0) as stage:
        await stage.start()
        session = stage.session()
        session.spec.store.write_bytes(b"keys")
        session.logout_fails = dead
        await stage.report(*REACHED[state])
        if state is LinkState.DISCONNECTED:
            await stage.clock.advance(1.1)
        assert stage.state() is state
        before = stage.publisher.types()
        paired = any(isinstance(report, d.PairSucceeded) for report in REACHED[state])
        snapshot = await stage.service.logout(KEY)
        assert snapshot.state is LinkState.LOGGED_OUT
        if state is not LinkState.LOGGED_OUT:
            assert stage.publisher.types() == [*before, "LoggedOut"]
            assert snapshot.reason_code == ("requested" if paired else "cancelled")
        await settle()  # without a connection the outcome of the device's removal comes after the answer
        published, once = stage.publisher.types(), stage.service.snapshot(KEY)
        assert await stage.service.logout(KEY) == once
        assert stage.publisher.types() == published
        assert session.stopped or session.logged_out
        if paired and state in (LinkState.CONNECTED, LinkState.DEGRADED, LinkState.DISCONNECTED, LinkState.PAIRED):
            assert session.logged_out is not dead
            assert session.stopped is dead
        waits = paired and state is not LinkState.LOGGED_OUT and not session.logged_out
        assert session.spec.store.exists() is waits
        assert stage.service.snapshot(KEY).device_removed is (None if not paired else not waits)


def test_logout_is_tried_in_every_state_but_idle() -> None:
    assert set(REACHED) == set(LinkState) - {LinkState.IDLE}


async def test_a_logout_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.publisher.fails = FULL
        with pytest.raises(LinkError) as refused:
            await stage.service.logout(KEY)
        assert refused.value.code == "outbox_full"
        assert stage.state() is LinkState.CONNECTED
        assert not stage.session().logged_out
        stage.publisher.fails = None
        assert (await stage.service.logout(KEY)).state is LinkState.LOGGED_OUT


async def test_a_logout_whose_removal_cannot_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()

        async def broken(*_: object) -> None:
            raise StoreError("disk")

        monkeypatch.setattr(stage.store, "save_removal", broken)
        with pytest.raises(LinkError) as refused:
            await stage.service.logout(KEY)
        assert refused.value.code == "store_unavailable"
        assert stage.state() is S.CONNECTED
        assert not stage.session().stopped


async def test_a_device_that_cannot_be_removed_is_published_and_given_up_after_a_day(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        session = stage.session()
        session.logout_fails = True
        snapshot = await stage.service.logout(KEY)
        assert (snapshot.state, snapshot.device_removed) == (LinkState.LOGGED_OUT, False)
        assert stage.publisher.last.device_removed is False
        assert "Linked devices" in stage.publisher.last.user_action
        await stage.start()  # a new link does not wait for it, and leaves its keys alone
        await settle()
        assert session.spec.store.exists()
        count, begun = len(stage.publisher.published), len(stage.driver.sessions)
        await stage.clock.advance(2 * 3600.0)
        tries = [other for other in stage.driver.sessions[begun:] if other.spec.link_id == session.spec.link_id]
        assert len(tries) > 12, "at least every ten minutes"
        assert all(other.stopped for other in tries[:-1])
        stage.driver.start_fails = True  # a start that fails is one of the tries
        await stage.clock.advance(86400.0 - 2 * 3600.0 - 10.0)
        assert session.spec.store.exists(), "the key is needed for a day"
        assert len(await stage.store.removals()) == 1
        await stage.clock.advance(600.0)
        assert not session.spec.store.exists()
        assert await stage.store.removals() == []
        results = [p for _, p in stage.publisher.published[count:] if isinstance(p, e.LoggedOut)]
        assert results == [], "a link that began meanwhile publishes nothing about the one before it"


async def test_a_removal_that_is_given_up_is_published_again(tmp_path: Path) -> None:
    async with staged(tmp_path, removal_period=600.0) as stage:
        await stage.connect()
        stage.session().logout_fails = True
        await stage.service.logout(KEY)
        stage.driver.start_fails = True
        await stage.clock.advance(1000.0)
        assert stage.publisher.types()[-2:] == ["LoggedOut", "LoggedOut"]
        assert stage.publisher.last.device_removed is False
        assert stage.service.snapshot(KEY).device_removed is False
        assert "Linked devices" in stage.publisher.last.user_action


async def test_a_removal_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        stage.session().logout_fails = True
        await stage.service.logout(KEY)
    async with staged(tmp_path) as stage:
        assert stage.state() is LinkState.LOGGED_OUT
        await stage.clock.advance(5.1)
        (session,) = stage.driver.sessions
        session.report(ONLINE)
        await settle()
        assert session.logged_out
        assert stage.publisher.last.device_removed is True
        assert stage.service.snapshot(KEY).device_removed is True
        assert await stage.store.removals() == []
