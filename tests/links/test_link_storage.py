"""A link whose events or records cannot be stored: commands are refused, events wait, nothing is lost."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from roundtrip import events as e
from roundtrip.api.problems import STATUS
from roundtrip.drivers import base as d
from roundtrip.errors import StorageError
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkState
from roundtrip.links.storage import StoreError
from tests.support.links import KEY, NAME, ONLINE, PHONE, QR, link_of, staged, write_key_file

S = LinkState


FULL = StorageError("outbox_full", "full")


async def test_a_start_that_cannot_be_stored_never_was(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.publisher.fails = StorageError("outbox_unavailable", "down")
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY)
        assert (refused.value.code, STATUS[refused.value.code]) == ("outbox_unavailable", 503)
        assert stage.state() is LinkState.IDLE
        assert stage.driver.sessions == []
        stage.publisher.fails = None
        stage.publisher.full = True
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY)
        assert refused.value.code == "outbox_full"
        stage.publisher.full = False
        await stage.start()
        assert stage.state() is LinkState.CONNECTING
    async with staged(tmp_path) as stage:
        assert len(stage.service.links()) == 1


async def test_a_start_that_failed_leaves_no_record(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        stage.publisher.fails = FULL
        with pytest.raises(LinkError):
            await stage.service.start(KEY)
    async with staged(tmp_path) as stage:
        assert stage.service.links() == []


async def test_a_start_that_failed_leaves_the_link_before_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        await stage.report(d.StreamReplaced())
        stage.publisher.fails = FULL
        with pytest.raises(LinkError):
            await stage.service.start(KEY)
        assert stage.state() is LinkState.REPLACED
    async with staged(tmp_path) as stage:
        assert stage.state() is LinkState.REPLACED
        assert stage.service.snapshot(KEY).phone_number == PHONE


async def test_an_event_that_cannot_be_stored_waits_and_the_state_with_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        await stage.report(QR)
        stage.publisher.fails = FULL
        await stage.report(d.PairSucceeded(PHONE), ONLINE)
        await stage.clock.advance(30.0)
        assert stage.state() is LinkState.QR
        assert stage.service.links()[0].stalled
        for order in (stage.service.logout(KEY), stage.service.start(KEY)):
            with pytest.raises(LinkError) as refused:
                await order
            assert refused.value.code == "outbox_full"
        stage.publisher.fails = None
        await stage.clock.advance(5.1)
        assert stage.publisher.types() == ["Connecting", "Qr", "Paired", "Connected"]
        assert stage.state() is LinkState.CONNECTED
        assert not stage.service.links()[0].stalled


async def test_a_code_that_ended_while_it_waited_is_not_published(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        stage.publisher.fails = FULL
        await stage.report(QR)
        await stage.clock.advance(61.0)
        stage.publisher.fails = None
        await stage.report(d.QrShown("2@second,a,b,c", 2, 6, 20.0))
        await stage.clock.advance(5.1)
        assert [p.index for _, p in stage.publisher.published if isinstance(p, e.Qr)] == [2]


async def test_a_waiting_event_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        stage.publisher.fails = FULL
        await stage.report(QR)
    assert stage.driver.sessions[0].stopped


async def test_a_record_that_cannot_be_written_does_not_stall_the_link(
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


async def test_accepted_keys_are_recorded_before_the_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_start_that_cannot_be_rolled_back_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_a_disk_that_does_not_answer_ends_no_link(
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
