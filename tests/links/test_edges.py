"""The edges of a link's life: its queue, its deadlines, its log, what cannot be stored, and the end of the program."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from roundtrip import events as e
from roundtrip.api.problems import STATUS
from roundtrip.clock import rfc3339
from roundtrip.drivers import base as d
from roundtrip.errors import StorageError
from roundtrip.identity import BotKey
from roundtrip.links.link import Link
from roundtrip.links.machine import Input, Timer
from roundtrip.links.queue import ExpiredTimer, InputQueue, Order, Timers
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from roundtrip.links.store import StoreError
from tests.support.links import KEY, NAME, ONLINE, OTHER, PHONE, QR, FakeClock, Stage, settle, staged, write_key_file

S = LinkState
FULL = StorageError("outbox_full", "full")


def link_of(stage: Stage, key: BotKey = KEY) -> Link:
    return stage.service._links[key]


def running(clock: FakeClock) -> int:
    """Timers that are still set."""
    return sum(call.callback is not None for _, _, call in clock._calls)


# the parts


async def test_a_deadline_that_is_dropped_or_replaced_leaves_no_timer(tmp_path: Path) -> None:
    clock = FakeClock()
    struck: list[ExpiredTimer] = []
    timers = Timers(clock, struck.append)
    timers.arm(Timer.GRACE, 5.0)
    timers.arm(Timer.GRACE, 6.0)
    timers.arm(Timer.STUCK, 7.0)
    timers.arm(Timer.CALM, 8.0)
    assert running(clock) == 3
    assert timers.names() == ("grace", "stuck", "calm")
    timers.cancel(Timer.GRACE)
    timers.cancel(Timer.GRACE)
    assert running(clock) == 2
    timers.cancel_all({Timer.STUCK})
    assert (running(clock), timers.armed(Timer.STUCK), timers.armed(Timer.CALM)) == (1, True, False)
    timers.cancel_all()
    assert running(clock) == 0
    await clock.advance(10.0)
    assert struck == []


async def test_a_queue_that_is_closed_ends_what_is_under_way_and_what_waits() -> None:
    taken: list[int] = []
    ended: list[int] = []

    async def handle(item: int) -> None:
        taken.append(item)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    inbox = InputQueue(handle, lambda *_: None)
    assert inbox.put(1)
    assert inbox.put(2)
    await settle()
    assert (inbox.processed, len(inbox), inbox.idle) == (1, 1, False)
    await inbox.close()
    assert (taken, ended, len(inbox), inbox.idle) == ([1], [1], 0, True)
    assert not inbox.put(3)
    await inbox.join()
    await inbox.close()


# one link


async def test_a_wait_for_another_state_ends_with_it_or_with_its_time(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        link = link_of(stage)
        before = running(stage.clock)
        wait = asyncio.create_task(link.leaves(S.CONNECTING, 10.0))
        await stage.report(QR)
        assert await wait is True
        wait = asyncio.create_task(link.leaves(S.QR, 10.0))
        await stage.report(d.QrShown("2@b,a,b,c", 2, 6, 20.0))  # a step, and no other state
        await stage.clock.advance(9.9)
        assert not wait.done()
        await stage.clock.advance(0.2)
        assert await wait is False
        assert await link.leaves(S.CONNECTED, 10.0) is True, "it is elsewhere already"
        assert running(stage.clock) <= before


async def test_a_key_without_a_link_has_no_line(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        link = Link(OTHER, stage.service._context)
        assert link.view() is None
        assert (link.state, link.worker_pid, link.shared) == (S.IDLE, None, False)
        await link.order(Order.LOGOUT)
        await link.order(Order.RESTORE)
        assert link.record is None
        link.notify(Input.SHARED)
        link.check_result(Input.WORKER_HUNG)
        link.report(QR)
        await settle()
        assert link.state is S.IDLE
        await link.close()


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (d.StreamFailed("5" * 40), {"event": "stream_error", "code": "5" * 32}),
        (d.ConnectFailed("4" * 70), {"event": "connect_failure", "whatsapp_reason": "4" * 64}),
        (d.WorkerDied(-9), {"event": "worker_died", "exit_status": -9}),
        (d.Unreachable("n" * 300), {"event": "whatsapp_unreachable", "error": "n" * 200}),
        (d.Outdated(), {"event": "client_outdated"}),
        (d.ConnectFailed("405"), {"event": "client_outdated"}),
    ],
    ids=lambda v: v["event"] if isinstance(v, dict) else "",
)
async def test_whatsapps_own_codes_are_in_the_log(tmp_path: Path, report: d.Report, line: dict[str, Any]) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        with capture_logs() as logs:
            await stage.report(report)
        (found,) = [entry for entry in logs if entry["event"] == line["event"]]
        link_id = stage.service.snapshot(KEY).link_id
        assert {**line, "link_id": link_id} == {k: v for k, v in found.items() if k != "log_level"}


async def test_each_change_of_state_is_in_the_log_and_names_nobody(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with staged(tmp_path) as stage:
            await stage.connect()
            link_id = stage.service.snapshot(KEY).link_id
    steps = [entry for entry in logs if entry["event"] == "link_state"]
    assert [(entry["before"], entry["state"], entry["reason"]) for entry in steps] == [
        ("idle", "connecting", "requested"),
        ("connecting", "qr", "code_shown"),
        ("qr", "paired", "pair_success"),
        ("paired", "connected", "authenticated"),
    ]
    assert {entry["link_id"] for entry in steps} == {link_id}
    assert PHONE[1:] not in str(logs)
    assert QR.qr not in str(logs)


async def test_a_step_that_breaks_is_logged_and_whoever_asked_is_told(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        link = link_of(stage)
        with capture_logs() as logs:
            await stage.report(d.QrShown("2@a,b,c,d", 1, 6, float("nan")))
        (entry,) = [entry for entry in logs if entry["event"] == "link_step_failed"]
        assert (entry["item"], entry["link_id"]) == ("QrShown", stage.service.snapshot(KEY).link_id)
        link.lifecycle.log_out = None  # type: ignore[assignment,method-assign]  # a fault of the program
        with capture_logs() as logs, pytest.raises(TypeError):
            await stage.service.logout(KEY)
        assert [entry["item"] for entry in logs if entry["event"] == "link_step_failed"] == ["Command"]
        assert link._waiters == set()


async def test_a_refusal_is_no_fault_of_the_program(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        with capture_logs() as logs, pytest.raises(LinkError):
            await stage.service.start(KEY, "+14155550199")
        assert "link_step_failed" not in str(logs)


async def test_a_correction_is_counted_and_logged_but_a_flood_is_none(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        link = link_of(stage)
        with capture_logs() as logs:
            link.check_result(Input.FOUND_OFFLINE)
            await settle()
        (entry,) = [entry for entry in logs if entry["event"] == "link_corrected"]
        assert (entry["state"], entry["found"]) == ("connected", "found_offline")
        assert stage.metrics.corrections == 1
        await stage.clock.advance(1.1)
        await stage.report(ONLINE)
        with capture_logs() as logs:
            await stage.report(*[d.StreamFailed("1")] * 300)
        assert [entry["event"] for entry in logs].count("session_floods") == 1, "once for the session"
        assert stage.metrics.corrections == 1
        await stage.clock.advance(20.0)
        await stage.report(ONLINE)
        assert stage.state() is S.CONNECTED
        await stage.report(*[d.StreamFailed("1")] * 300)  # its successor is judged by itself
        assert stage.session().stopped


@pytest.mark.parametrize("cause", [Input.WORKER_HUNG, Input.WORKER_DIED])
async def test_hung_and_flooding_workers_count_towards_the_limit_of_deaths(tmp_path: Path, cause: Input) -> None:
    async with staged(tmp_path, restart_limit=2, retry_cap=2.0) as stage:
        await stage.start()
        for _ in range(2):
            link_of(stage).check_result(cause)
            await stage.clock.advance(2.1)
            assert stage.state() is S.CONNECTING
        assert stage.service.crashing == 0
        link_of(stage).check_result(cause)
        await settle()
        assert stage.state() is S.FAILED
        assert stage.service.snapshot(KEY).reason_code == "worker_crashed"
        assert stage.service.crashing == 1


async def test_news_about_another_link_of_the_key_is_not_this_ones(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.service.logout(KEY)
        said = len(stage.publisher.published)
        link_of(stage).notify(Input.DEVICE_KEPT, "the one before")
        await settle()
        assert len(stage.publisher.published) == said
        link_of(stage).notify(Input.DEVICE_KEPT)
        await settle()
        assert stage.service.snapshot(KEY).device_removed is False


@pytest.mark.parametrize("asked", ["qr", "code"])
async def test_a_changed_wish_has_its_own_patience_and_its_counts_begin_anew(tmp_path: Path, asked: str) -> None:
    async with staged(tmp_path, pairing_patience=300.0, retry_limit=2, retry_cap=1.0) as stage:
        await stage.start(phone=None if asked == "code" else PHONE)
        for _ in range(2):
            await stage.report(d.Unreachable("x"))
            await stage.clock.advance(1.1)
        await stage.clock.advance(290.0 - 2.2)
        await stage.start(phone=PHONE if asked == "code" else None)
        await stage.clock.advance(1.1)
        before = len(stage.publisher.published)
        await stage.report(d.Unreachable("x"))
        assert len(stage.publisher.published) == before, "the first failure of this wish"
        await stage.clock.advance(200.0)
        assert stage.state() in (S.CONNECTING, S.DISCONNECTED)
        await stage.clock.advance(100.0)
        assert stage.state() is S.FAILED


async def test_the_wish_that_was_granted_is_kept_by_a_fresh_session(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone=PHONE)
        await stage.report(d.WorkerDied(1))
        await stage.clock.advance(1.1)
        assert stage.session().spec.phone_number == PHONE
        seeds = {session.spec.seed for session in stage.driver.sessions}
        assert len(seeds) == 1
        write_key_file(stage.session().spec.store)
        await stage.report(d.PairSucceeded(PHONE), d.WorkerDied(1))
        await stage.clock.advance(3.0)
        assert stage.session().spec.phone_number is None, "a paired device asks for no code"
        await stage.start(OTHER)
        assert stage.session(OTHER).spec.seed not in seeds


async def test_a_late_next_code_is_waited_for_and_a_late_last_one_is_not(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(d.QrShown("2@a,b,c,d", 5, 6, 20.0))
        await stage.clock.advance(29.9)
        assert stage.state() is S.QR
        await stage.report(d.QrShown("2@b,b,c,d", 6, 6, 20.0))
        await stage.clock.advance(20.9)
        assert stage.state() is S.QR
        await stage.clock.advance(0.2)
        assert stage.state() is S.QR_EXPIRED
        await stage.start(phone=PHONE)
        await stage.report(d.PairingCodeShown("ABCD-1234", 160.0))
        await stage.clock.advance(160.9)
        assert stage.state() is S.PAIRING_CODE
        await stage.clock.advance(0.2)
        assert stage.state() is S.QR_EXPIRED


@pytest.mark.parametrize("lasts", [None, 0.0, -5.0, float("nan")])
async def test_a_ban_of_no_known_length_gets_the_pause(tmp_path: Path, lasts: float | None) -> None:
    async with staged(tmp_path, ban_cooldown=600.0) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(101, lasts))
        snapshot = stage.service.snapshot(KEY)
        assert (snapshot.until, snapshot.retry_at) == (None, rfc3339(stage.clock.now() + 600.0))


async def test_a_ban_of_centuries_is_looked_at_again_within_a_year(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.TemporaryBan(101, 1e12))
        assert stage.service.snapshot(KEY).retry_at == rfc3339(stage.clock.now() + 366 * 86400.0)


async def test_only_a_paired_account_is_tried_again_after_a_ban_by_itself(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone=PHONE)
        await stage.report(d.TemporaryBan(101, 100.0))
        assert stage.service.links()[0].deadlines == ()
        await stage.clock.advance(200.0)
        assert stage.state() is S.BANNED
        await stage.start(phone=PHONE)
        assert stage.state() is S.CONNECTING


async def test_whoever_is_let_in_is_banned_no_more_under_any_bot(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.connect(OTHER)
        await stage.report(d.TemporaryBan(101, 1000.0))
        await stage.report(ONLINE, key=OTHER)  # it was let in meanwhile
        await stage.clock.advance(0.1)
        assert await stage.store.bans(0.0) == {}
        await stage.start()
        assert stage.state() is S.CONNECTING


async def test_a_deadline_of_the_start_waits_until_there_is_a_session(tmp_path: Path) -> None:
    """Whoever waits for a turn has not dialed: nothing was unreachable."""
    async with staged(tmp_path, start_concurrency=1) as stage:
        stage.driver.gate = asyncio.Event()
        await stage.start()
        await stage.clock.advance(200.0)
        assert stage.publisher.types() == ["Connecting"]
        assert stage.state() is S.CONNECTING
        stage.driver.gate.set()
        await stage.clock.advance(46.0)
        assert stage.publisher.types() == ["Connecting", "Disconnected"]


async def test_keys_are_secured_when_the_link_is_connected(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        store = stage.session().spec.store
        write_key_file(store)
        store.chmod(0o644)
        await stage.report(QR, d.PairSucceeded(PHONE))
        assert store.stat().st_mode & 0o777 == 0o644
        await stage.report(ONLINE)
        assert store.stat().st_mode & 0o777 == 0o600


# what cannot be stored


async def test_a_record_that_cannot_be_written_is_no_reason_to_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        save = stage.store.save

        async def broken(*_: object) -> None:
            raise StoreError("disk")

        monkeypatch.setattr(stage.store, "save", broken)
        with capture_logs() as logs:
            await stage.report(QR)
        assert stage.state() is S.QR
        assert "link_record_behind" in str(logs)
        monkeypatch.setattr(stage.store, "save", save)
        await stage.report(d.QrShown("2@b,b,c,d", 2, 6, 20.0))
    async with staged(tmp_path, restore=False) as stage:
        assert stage.service.snapshot(KEY).state is S.QR, "the next step wrote it"


@pytest.mark.parametrize("full", [False, True])
async def test_a_waiting_event_is_tried_again_later_and_later(tmp_path: Path, full: bool) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        tries: list[float] = []
        publish = stage.publisher.publish

        async def counted(*args: Any, **more: Any) -> None:
            tries.append(stage.clock.monotonic())
            await publish(*args, **more)

        stage.publisher.publish = counted  # type: ignore[method-assign]  # it counts
        stage.publisher.fails = FULL if full else StorageError("outbox_unavailable", "down")
        with capture_logs() as logs:
            await stage.report(QR)
            await stage.clock.advance(30.0)
        gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
        for n, gap in enumerate(gaps):
            whole = min(5.0, 0.2 * 2**n)
            assert whole / 2 - 1e-6 <= gap <= whole + 1e-6
        assert len(gaps) >= 8
        waits = [entry for entry in logs if entry["event"] == "link_event_waits"]
        assert [entry["attempt"] for entry in waits] == list(range(len(tries)))
        assert {entry["code"] for entry in waits} == {stage.publisher.fails.code}
        with pytest.raises(LinkError) as refused:
            await stage.service.logout(KEY)
        assert (refused.value.code, STATUS[refused.value.code], refused.value.retry_after) == (
            stage.publisher.fails.code,
            503,
            5,
        )


async def test_keys_that_were_accepted_are_noted_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.report(QR)
        stage.publisher.fails = FULL
        await stage.report(d.PairSucceeded(PHONE))
    async with staged(tmp_path, restore=False) as stage:
        record = link_of(stage).record
        assert record is not None
        assert (record.paired, record.phone_number) == (True, PHONE)


async def test_a_first_start_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:

        async def broken(*_: object) -> None:
            raise StoreError("disk")

        with monkeypatch.context() as patch:
            patch.setattr(stage.store, "save", broken)
            with pytest.raises(LinkError) as refused:
                await stage.service.start(KEY)
        assert (refused.value.code, STATUS[refused.value.code]) == ("store_unavailable", 503)
        assert KEY not in stage.service._links
        assert stage.publisher.published == []


async def test_a_start_that_cannot_be_taken_back_is_told_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path) as stage:

        async def broken(*_: object) -> None:
            raise StoreError("disk")

        monkeypatch.setattr(stage.store, "delete", broken)
        stage.publisher.fails = FULL
        with capture_logs() as logs, pytest.raises(LinkError):
            await stage.service.start(KEY)
        assert "link_record_left" in str(logs)
        stage.publisher.fails = None
        await stage.start()
        assert stage.state() is S.CONNECTING


@pytest.mark.parametrize("name", ["key_state", "secure", "save_ban", "delete_ban"])
async def test_a_disk_that_does_not_answer_costs_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with staged(tmp_path) as stage:

        async def broken(*_: object) -> None:
            raise StoreError("disk")

        monkeypatch.setattr(stage.store, name, broken)
        await stage.connect()
        await stage.report(d.WorkerDied(1))
        await stage.clock.advance(1.1)
        await stage.report(ONLINE, d.TemporaryBan(101, 10.0))
        assert stage.state() is S.BANNED
        await stage.clock.advance(12.0)
        await stage.report(ONLINE)
        assert stage.publisher.last == e.Connected(PHONE, NAME, first=False)


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


# the end of the program


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
    assert running(stage.clock) == 0
    assert all(session.stopped for session in stage.driver.sessions)
    assert stage.store._db is None
    new = BotKey.parse("user-3", "bot")
    for ask in (stage.service.start(KEY), stage.service.logout(KEY), stage.service.start(new)):
        with pytest.raises(LinkError) as refused:
            await ask
        assert (refused.value.code, STATUS[refused.value.code], refused.value.retry_after) == ("shutting_down", 503, 5)
    with pytest.raises(LinkError):
        await link_of(stage).order(Order.LOGOUT)


async def test_a_task_of_the_service_that_dies_is_told_in_the_log(tmp_path: Path) -> None:
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


async def test_how_far_the_restore_is(tmp_path: Path) -> None:
    async with staged(tmp_path, restore=False) as stage:
        assert stage.service.restoring == (0, 0, False)
        await stage.service.restore()
        assert stage.service.restoring == (0, 0, True)


async def test_a_link_that_begins_to_flap_waits_for_calm_and_not_for_the_grace_period(tmp_path: Path) -> None:
    async with staged(tmp_path, flap_limit=1) as stage:
        await stage.connect()
        await stage.report(d.Offline(), ONLINE)
        assert stage.service.links()[0].deadlines == ()
        await stage.report(d.KeepAliveLost(), d.Offline())
        assert "calm" in stage.service.links()[0].deadlines
        assert "grace" not in stage.service.links()[0].deadlines
