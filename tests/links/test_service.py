"""The service: what a user may ask of it, what it shows, and how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from roundtrip import events as e
from roundtrip.api.problems import STATUS
from roundtrip.drivers import base as d
from roundtrip.drivers.simulated import SimulateAction
from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.links.queue import Order
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.links import (
    KEY,
    NAME,
    OTHER,
    PHONE,
    QR,
    FakePublisher,
    Stage,
    link_of,
    running_timers,
    settle,
    staged,
)

FULL = StorageError("outbox_full", "full")


@pytest.mark.parametrize(("wanted", "told"), [(PHONE, True), ("+14155550177", False), (None, False)])
async def test_before_a_phone_has_paired_only_the_number_that_was_asked_for_is_known(
    tmp_path: Path, wanted: str | None, told: bool
) -> None:
    """A number that this user has linked under another bot is told before anything is scanned; no other user's is."""
    async with staged(tmp_path) as stage:
        await stage.connect()
        mine, others = BotKey(KEY.user_id, "second"), BotKey("somebody", "second")
        await stage.start(mine, wanted)
        await stage.start(others, wanted)
        assert bool(stage.service.snapshot(mine).also_linked_elsewhere) is told
        assert not stage.service.snapshot(others).also_linked_elsewhere


async def test_an_unknown_bot_is_idle(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        snapshot = stage.service.snapshot(KEY)
        assert (snapshot.state, snapshot.link_id, snapshot.seq) == (LinkState.IDLE, None, 0)
        assert (await stage.service.logout(KEY)).state is LinkState.IDLE
        assert stage.service.links() == []


async def test_a_second_start_changes_nothing_while_a_link_lives(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        first, second = await asyncio.gather(stage.service.start(KEY), stage.service.start(KEY))
        await settle()
        assert first.link_id == second.link_id
        await stage.report(QR)
        assert (await stage.service.start(KEY)).state is LinkState.QR
        assert len(stage.driver.sessions) == 1
        assert stage.publisher.types() == ["Connecting", "Qr"]


@pytest.mark.parametrize(
    "phone", ["", "12345", "+1", "hello", "+49 1", "+" + "9" * 60, "+1 415 555 0142 x12", "0170 1234567"]
)
async def test_a_wrong_phone_number_is_refused_and_not_repeated(tmp_path: Path, phone: str) -> None:
    async with staged(tmp_path) as stage:
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY, phone)
        assert (refused.value.code, STATUS[refused.value.code]) == ("phone_number_invalid", 400)
        assert not phone or phone not in refused.value.message
        assert stage.service.links() == []
        assert stage.publisher.published == []


async def test_another_number_for_a_linked_bot_is_refused(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        assert (await stage.service.start(KEY, PHONE)).state is LinkState.CONNECTED
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY, "+14155550199")
        assert (refused.value.code, STATUS[refused.value.code]) == ("another_number_linked", 409)


async def test_too_many_links(tmp_path: Path) -> None:
    async with staged(tmp_path, max_links_per_user=2) as stage:
        one, two, three = (BotKey.parse("user", f"bot-{n}") for n in range(3))
        await stage.start(one)
        await stage.start(two)
        await stage.start(one)  # alive, so nothing new
        with pytest.raises(LinkError) as refused:
            await stage.start(three)
        assert (refused.value.code, STATUS[refused.value.code]) == ("too_many_links", 429)
        assert stage.state(three) is LinkState.IDLE
        await stage.service.logout(one)
        await stage.start(three)
        assert stage.state(three) is LinkState.CONNECTING


async def test_asking_at_once_does_not_pass_the_limit(tmp_path: Path) -> None:
    async with staged(tmp_path, max_links_per_user=5) as stage:
        asked = [stage.service.start(BotKey.parse("user", f"bot-{n}")) for n in range(100)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, LinkError)]
        assert len(refused) == 95
        assert {error.code for error in refused} == {"too_many_links"}
        assert len(stage.service.links()) == 5


async def test_starts_are_limited_at_once(tmp_path: Path) -> None:
    async with staged(tmp_path, start_concurrency=2) as stage:
        keys = [BotKey.parse("user", f"bot-{n}") for n in range(5)]
        for key in keys:
            await stage.start(key)
        assert len(stage.driver.sessions) == 2
        await stage.report(QR, key=keys[0])
        assert len(stage.driver.sessions) == 3
        await stage.clock.advance(20.1)  # silence does not block the others for ever
        assert len(stage.driver.sessions) == 5


async def test_one_users_flood_of_starts_delays_no_other_user(tmp_path: Path) -> None:
    async with staged(tmp_path, start_concurrency=1) as stage:
        for n in range(20):
            await stage.start(BotKey.parse("flood", f"bot-{n}"))
        assert len(stage.driver.sessions) == 1
        await stage.start(OTHER)
        assert len(stage.driver.sessions) == 2
        await stage.report(QR, key=OTHER)
        assert stage.state(OTHER) is LinkState.QR


async def test_the_same_account_under_two_keys_is_published(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect(KEY)
        await stage.connect(OTHER)
        for key in (KEY, OTHER):
            snapshot = stage.service.snapshot(key)
            assert (snapshot.also_linked_elsewhere, snapshot.reason_code) == (True, "also_linked_elsewhere")
            assert snapshot.user_action
            assert snapshot.state is LinkState.CONNECTED
        assert stage.publisher.types(KEY) == ["Connecting", "Qr", "Paired", "Connected", "Connected"]
        assert [p.also_linked_elsewhere for _, p in stage.publisher.published if isinstance(p, e.Connected)] == [
            False,
            True,
            True,
        ]
        third = BotKey.parse(KEY.user_id, "third")
        await stage.start(third, PHONE)
        assert stage.publisher.last == e.Connecting(also_linked_elsewhere=True)  # warned before it is paired
        await stage.start(BotKey.parse("stranger", "bot"), PHONE)
        assert stage.publisher.last == e.Connecting()  # whose number it is is nobody else's business
        await stage.service.logout(KEY)
        await settle()
        assert stage.service.snapshot(OTHER).reason_code is None
        assert stage.publisher.published[-1] == (OTHER, e.Connected(PHONE, NAME, first=False))


async def test_a_different_account_is_no_second(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect(KEY)
        await stage.connect(OTHER, "+14155550143")
        assert stage.service.snapshot(OTHER).reason_code is None


async def test_only_the_simulated_driver_takes_simulated_actions(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        with pytest.raises(LinkError) as refused:
            await stage.service.simulate(KEY, SimulateAction.SCAN)
        assert refused.value.code == "not_simulated"


async def test_the_operators_view_hides_the_phone_number(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        (view,) = stage.service.links()
        assert view.phone_number is not None
        assert PHONE[1:-2] not in view.phone_number
        assert (view.worker_pid, view.state) == (4242, LinkState.CONNECTED)
        assert stage.service.counts() == {LinkState.CONNECTED: 1}


async def test_how_far_the_restore_is(tmp_path: Path) -> None:
    async with staged(tmp_path, restore=False) as stage:
        assert stage.service.restoring == (0, 0, False)
        await stage.service.restore()
        assert stage.service.restoring == (0, 0, True)


async def test_a_task_of_the_service_that_fails_is_logged(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:

        async def broken() -> None:
            raise RuntimeError("bug")

        with capture_logs() as logs:
            stage.service._spawn(broken(), "links-broken")
            await settle()
        (entry,) = [entry for entry in logs if entry["event"] == "links_task_died"]
        assert entry["task"] == "links-broken"
        assert len(stage.service._tasks) == 1, "only the watch is left"
        with capture_logs() as logs:
            await stage.connect()
            await stage.report(d.StreamFailed("1"))
            await stage.clock.advance(3.0)
        assert "links_task_died" not in str(logs)
        assert len(stage.service._tasks) == 1


async def test_at_the_end_every_task_and_timer_and_session_ends(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.start(OTHER)
        await stage.report(QR, key=OTHER)
        stage.session().is_alive = False
        await stage.report(d.StreamFailed("1"))
        tasks = set(stage.service._tasks)
        assert len(tasks) == 2, "the watch, and the look that was asked for"
    assert all(task.cancelled() for task in tasks)
    assert running_timers(stage.clock) == 0
    assert all(session.stopped for session in stage.driver.sessions)
    assert stage.store._db is None
    new = BotKey.parse("user-3", "bot")
    for ask in (stage.service.start(KEY), stage.service.logout(KEY), stage.service.start(new)):
        with pytest.raises(LinkError) as refused:
            await ask
        assert (refused.value.code, STATUS[refused.value.code], refused.value.retry_after) == ("shutting_down", 503, 5)
    with pytest.raises(LinkError):
        await link_of(stage).order(Order.LOGOUT)


async def test_callers_that_wait_at_the_end_get_an_error(tmp_path: Path) -> None:
    class Slow(FakePublisher):
        async def publish(self, *args: object, **more: object) -> None:
            await asyncio.Event().wait()

    stage = Stage(tmp_path)
    stage.service._context.publisher = Slow()
    await stage.service.open()
    waiting = asyncio.create_task(stage.service.start(KEY))
    await settle()
    await stage.service.close()
    with pytest.raises(LinkError) as refused:
        await waiting
    assert refused.value.code == "shutting_down"
    with pytest.raises(LinkError):
        await stage.service.start(OTHER)
