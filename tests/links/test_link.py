"""One link's queue of inputs: waiting for a state, errors, the log, checks, and news from outside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from roundtrip.drivers import base as d
from roundtrip.errors import IllegalTransitionError
from roundtrip.links.link import Link
from roundtrip.links.machine import Input
from roundtrip.links.queue import Order
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from tests.support.links import (
    KEY,
    ONLINE,
    OTHER,
    PHONE,
    QR,
    link_of,
    running_timers,
    settle,
    staged,
    write_key_file,
)

S = LinkState


async def test_a_wait_for_another_state_ends_with_it_or_with_its_time(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        link = link_of(stage)
        before = running_timers(stage.clock)
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
        assert running_timers(stage.clock) <= before


async def test_a_key_without_a_link_has_no_view(tmp_path: Path) -> None:
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


async def test_each_change_of_state_is_logged_without_personal_data(tmp_path: Path) -> None:
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


async def test_an_input_that_raises_is_logged_and_its_caller_gets_the_error(tmp_path: Path) -> None:
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


async def test_a_refused_command_is_not_logged_as_a_failure(tmp_path: Path) -> None:
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
async def test_hung_and_flooding_workers_count_as_crashes(tmp_path: Path, cause: Input) -> None:
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


async def test_an_external_input_about_an_earlier_link_is_ignored(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.service.logout(KEY)
        count = len(stage.publisher.published)
        link_of(stage).notify(Input.DEVICE_KEPT, "the one before")
        await settle()
        assert len(stage.publisher.published) == count
        link_of(stage).notify(Input.DEVICE_KEPT)
        await settle()
        assert stage.service.snapshot(KEY).device_removed is False


async def test_the_start_timers_wait_until_there_is_a_session(tmp_path: Path) -> None:
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


async def test_an_input_that_raises_does_not_end_the_link(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(d.QrShown("2@a,b,c,d", 1, 6, float("nan")))  # a time that cannot be written
        await stage.report(QR)
        assert stage.state() is LinkState.QR


async def test_late_reports_of_an_ended_session_are_dropped(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        old = stage.session()
        await stage.report(d.WorkerDied(-9))
        await stage.clock.advance(1.1)
        old.report(d.LoggedOutByPhone("401"))
        await settle()
        assert stage.state() is LinkState.CONNECTED
        await stage.report(d.StreamReplaced(), d.Offline(), ONLINE)
        assert stage.state() is LinkState.REPLACED


async def test_a_flood_of_reports_ends_the_worker(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(*[d.QrShown(f"2@{n},a,b,c", 1, 6, 60.0) for n in range(500)])
        assert stage.session().stopped
        assert len(stage.publisher.published) < 10
        await stage.clock.advance(1.1)
        assert len(stage.driver.sessions) == 2
        assert stage.state() is LinkState.CONNECTING


async def test_an_illegal_transition_is_refused_counted_and_logged(
    tmp_path: Path, illegal_transitions: list[IllegalTransitionError]
) -> None:
    counted: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: counted.append(context))
    async with staged(tmp_path) as stage:
        await stage.connect()
        link = link_of(stage)
        before, published = (link.record, link.deadlines), stage.publisher.types()
        with capture_logs() as logs:
            link.notify(Input.BAN_OVER)
            await settle()
        assert (link.record, link.deadlines) == before
        assert stage.publisher.types() == published
        assert [(entry["state"], entry["cause"]) for entry in logs if entry["event"] == "link_transition_refused"] == [
            ("connected", "ban_over")
        ]
        assert [context["exception"] for context in counted] == illegal_transitions
        illegal_transitions.clear()
        await stage.report(d.KeepAliveLost())
        assert stage.state() is S.DEGRADED, "the link goes on"
