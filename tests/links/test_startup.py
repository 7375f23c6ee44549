"""How a link begins from each state: what remains of the one before, and which starts are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from roundtrip.api.problems import STATUS
from roundtrip.drivers import base as d
from roundtrip.identity import BotKey
from roundtrip.links import startup
from roundtrip.links.machine import ENDED, LIVE
from roundtrip.links.reasons import LinkError
from roundtrip.links.record import LinkRecord, LinkState
from tests.support.links import KEY, NAME, ONLINE, OTHER, PHONE, QR, settle, staged, write_key_file

S = LinkState
BAN = d.TemporaryBan(101, 1000.0)
ANOTHER = "+14155550199"


@pytest.mark.parametrize("state", S, ids=str)
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("reason", [None, "store_missing", "store_corrupt", "worker_crashed"])
def test_which_links_a_restart_restores(state: LinkState, paired: bool, reason: str | None) -> None:
    record = LinkRecord(KEY, "l", state, 1.0, 1.0, PHONE, NAME, paired, True, reason)
    keys = reason in (None, "worker_crashed")
    wanted = paired and keys and (state in LIVE or state in (S.FAILED, S.CLIENT_OUTDATED))
    assert startup.restorable(record) is wanted
    seen = startup.awaiting_restore(record, 7.0)
    assert seen == replace(record, state=S.CONNECTING, since=7.0, reason_code=None)


@pytest.mark.parametrize(
    ("last", "has_keys"),
    [
        ([d.StreamReplaced()], True),
        ([d.LoggedOutByPhone("401")], False),
        (["keys are missing", d.WorkerDied(1)], False),
        (["keys are broken", d.WorkerDied(1)], False),
    ],
    ids=["replaced", "logged out", "missing", "corrupt"],
)
async def test_an_account_that_has_its_keys_logs_in_and_another_is_linked_anew(
    tmp_path: Path, last: list[object], has_keys: bool
) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect()
        before = stage.service.snapshot(KEY)
        store = stage.session().spec.store
        for step in last:
            if isinstance(step, d.Report):
                await stage.report(step)
            elif "missing" in str(step):
                store.unlink()
            else:
                store.write_bytes(b"\xff" * 5000)
        await stage.clock.advance(2.0)
        assert stage.state() in ENDED
        await stage.clock.advance(100.0)
        await stage.start()
        after = stage.service.snapshot(KEY)
        assert (after.state, after.reason_code) == (S.CONNECTING, None)
        assert (after.link_id == before.link_id) is has_keys
        assert after.phone_number == (PHONE if has_keys else None)
        assert after.since > before.since
        assert store.exists() is has_keys, "useless keys are deleted"
        assert stage.session().spec.store.name == f"{after.link_id}.db"
        if not has_keys:
            write_key_file(stage.session().spec.store)
            await stage.report(QR, d.PairSucceeded(PHONE))
        await stage.report(ONLINE)
        assert stage.publisher.last.first is not has_keys
        assert stage.service.snapshot(KEY).also_linked_elsewhere is None, "the one before has let it go"


async def test_a_linked_bot_takes_its_own_number_in_any_writing_and_no_other(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect(phone="+5511987654321")
        for number in ("+5511987654321", "+551187654321"):
            assert (await stage.service.start(KEY, number)).state is S.CONNECTED
        await stage.report(d.StreamReplaced())
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY, ANOTHER)
        assert (refused.value.code, STATUS[refused.value.code]) == ("another_number_linked", 409)
        assert stage.state() is S.REPLACED
        assert (await stage.service.start(KEY, "+551187654321")).state is S.CONNECTING


@pytest.mark.parametrize("after", [(), (QR,), (d.PairingCodeShown("ABCD-1234", 160.0),), (d.PairSucceeded(PHONE),)])
async def test_which_starts_begin_a_pairing(tmp_path: Path, after: tuple[d.Report, ...]) -> None:
    async with staged(tmp_path) as stage:
        assert stage.service.begins_pairing(KEY, None)
        assert stage.service.begins_pairing(KEY, PHONE)
        await stage.start(phone=PHONE)
        await stage.report(*after)
        assert not stage.service.begins_pairing(KEY, PHONE)
        paired = any(isinstance(report, d.PairSucceeded) for report in after)
        assert stage.service.begins_pairing(KEY, None) is not paired
        assert stage.service.begins_pairing(KEY, ANOTHER) is not paired
        if paired:
            return
        before = len(stage.driver.sessions)
        await stage.start(phone=PHONE)
        assert len(stage.driver.sessions) == before
        await stage.service.logout(KEY)
        assert stage.service.begins_pairing(KEY, PHONE)


async def test_a_code_for_a_banned_number_is_refused_and_the_present_one_stays(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.connect(OTHER)
        await stage.report(BAN, key=OTHER)
        await stage.start()
        await stage.report(QR)
        with pytest.raises(LinkError) as refused:
            await stage.service.start(KEY, PHONE)
        assert (refused.value.code, STATUS[refused.value.code]) == ("banned", 409)
        assert refused.value.retry_after == pytest.approx(1000.0)
        assert stage.state() is S.QR
        await stage.clock.advance(990.0)
        await stage.start()
        with pytest.raises(LinkError):
            await stage.service.start(KEY, PHONE)
        await stage.clock.advance(10.1)
        await stage.start(phone=PHONE)
        assert stage.session().spec.phone_number == PHONE


async def test_a_banned_bot_may_link_another_number(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start(phone=PHONE)
        await stage.report(BAN)
        with pytest.raises(LinkError):
            await stage.service.start(KEY, PHONE)
        await stage.start(phone=ANOTHER)
        assert stage.session().spec.phone_number == ANOTHER


async def test_a_start_has_its_own_trace_and_keeps_the_requested_number(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for trace in (1, 2):
            await stage.service.start(KEY, PHONE, f"00-{trace:032x}-{8:016x}-01")
            await settle()
            assert stage.publisher.calls[-1]["traceparent"].startswith(f"00-{trace:032x}-")
            assert stage.session().spec.traceparent
            await stage.service.logout(KEY)


async def test_the_time_limit_of_a_pairing_begins_with_its_start(tmp_path: Path) -> None:
    async with staged(tmp_path, pairing_patience=100.0) as stage:
        await stage.start()
        await stage.clock.advance(90.0)
        await stage.start()  # alive: nothing begins anew
        await stage.report(QR)
        await stage.clock.advance(9.9)
        assert stage.state() is S.QR
        await stage.clock.advance(0.2)
        assert stage.state() is S.QR_EXPIRED
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.report(QR, d.PairSucceeded(PHONE), ONLINE)
        stage.session().is_alive = True
        await stage.clock.advance(500.0)
        assert stage.state() is S.CONNECTED, "who linked an account is waited for no more"


async def test_the_limit_of_links_counts_the_live_ones_of_that_user(tmp_path: Path) -> None:
    mine = [BotKey.parse("user", f"bot-{n}") for n in range(4)]
    async with staged(tmp_path, max_links_per_user=2) as stage:
        await stage.start(OTHER)
        await stage.start(mine[0])
        await stage.start(mine[1])
        with pytest.raises(LinkError):
            await stage.service.start(mine[2])
        await stage.service.logout(mine[0])
        await stage.start(mine[2])
        with pytest.raises(LinkError):
            await stage.service.start(mine[0])
        with pytest.raises(LinkError):
            await stage.service.start(mine[3])
        assert mine[3] not in stage.service._links
        assert not stage.service._starting


async def test_pairing_time_is_from_the_start_to_the_first_connection(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.start()
        write_key_file(stage.session().spec.store)
        await stage.clock.advance(7.0)
        await stage.report(QR, d.PairSucceeded(PHONE))
        stage.clock.step(-1000.0)
        await stage.clock.advance(3.0)
        await stage.report(ONLINE, d.Offline(), ONLINE)
        assert stage.metrics.pairings == [pytest.approx(10.0)]
