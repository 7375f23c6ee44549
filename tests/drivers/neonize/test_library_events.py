"""What the library's events, errors and log lines mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import library_events
from roundtrip.drivers.neonize.library_events import READERS, LibraryLog, Refusal

FAILURES = "GENERIC LOGGED_OUT TEMP_BANNED MAIN_DEVICE_GONE UNKNOWN_LOGOUT CLIENT_OUTDATED BAD_USER_AGENT"
FAILURES += " INTERNAL_SERVER_ERROR EXPERIMENTAL SERVICE_UNAVAILABLE"
BANS = "SEND_TO_TOO_MANY_PEOPLE BLOCKED_BY_USERS CREATED_TOO_MANY_GROUPS SENT_TOO_MANY_SAME_MESSAGE BROADCAST_LIST"
ENUMS = {"Reason": FAILURES.split(), "Code": BANS.split(), "Status": ["ERROR", "SUCCESS"]}
"""neonize's names, in the order of its numbers from 1; the tests below have the real messages."""


def message(**fields: Any) -> Any:
    """What neonize hands over, with the descriptor of its enum fields."""
    found = {}
    for field, names in ENUMS.items():
        values = {at: SimpleNamespace(name=name) for at, name in enumerate(names, 1)}
        found[field] = SimpleNamespace(enum_type=SimpleNamespace(values_by_number=values))
    return SimpleNamespace(DESCRIPTOR=SimpleNamespace(fields_by_name=found), **fields)


JID = SimpleNamespace(User="447441395830:7")


@pytest.mark.parametrize(
    ("event", "fields", "report"),
    [
        ("PairStatus", {"ID": JID, "Status": 2}, d.PairSucceeded("+447441395830")),
        ("PairStatus", {"ID": JID, "Status": 1}, d.ConnectFailed("pair_error")),
        ("LoggedOut", {"OnConnect": False, "Reason": 4}, d.LoggedOutByPhone("401")),
        ("LoggedOut", {"OnConnect": True, "Reason": 99}, d.LoggedOutByPhone("401")),
        ("StreamReplaced", {}, d.StreamReplaced()),
        ("ClientOutdated", {}, d.Outdated()),
        ("Disconnected", {}, d.Offline()),
        ("KeepAliveTimeout", {}, d.KeepAliveLost()),
        ("KeepAliveRestored", {}, d.KeepAliveRestored()),
        ("StreamError", {"Code": "5031"}, d.StreamFailed("5031")),
        ("StreamError", {"Code": "50312"}, d.StreamFailed("unknown")),
        ("StreamError", {"Code": "abc"}, d.StreamFailed("unknown")),
        ("TemporaryBan", {"Code": 1, "Expire": 0}, d.TemporaryBan(101, None)),
        ("TemporaryBan", {"Code": 99, "Expire": 1}, d.TemporaryBan(0, 1.0)),
        ("ConnectFailure", {"Reason": 99}, d.ConnectFailed("99")),
    ],
)
def test_an_event_is_read_as_its_report(event: str, fields: dict[str, Any], report: d.Report) -> None:
    assert READERS[event](message(**fields)) == report


NUMBERS = ("400", "401", "402", "403", "406", "405", "409", "500", "501", "503")


@pytest.mark.parametrize(("at", "number"), list(enumerate(NUMBERS, 1)))
def test_refusals_have_whatsapps_numbers(at: int, number: str) -> None:
    assert READERS["ConnectFailure"](message(Reason=at)) == d.ConnectFailed(number)
    assert READERS["LoggedOut"](message(Reason=at, OnConnect=True)) == d.LoggedOutByPhone(number)


@pytest.mark.parametrize(("at", "number"), list(enumerate((101, 102, 103, 104, 106), 1)))
def test_bans_have_whatsapps_numbers(at: int, number: int) -> None:
    assert READERS["TemporaryBan"](message(Code=at, Expire=60)) == d.TemporaryBan(number, 60.0)


DIAL, HANDSHAKE, UNKNOWN = d.ConnectStage.DIAL, d.ConnectStage.HANDSHAKE, d.ConnectStage.UNKNOWN


@pytest.mark.parametrize(
    ("text", "report", "stage"),
    [
        ("failed to dial whatsapp web websocket: … 10.1.2.3:443: i/o timeout", "the dial failed: timeout", DIAL),
        ("failed to dial whatsapp web websocket: lookup: no such host", "the dial failed: no such host", DIAL),
        ("failed to dial whatsapp web websocket: 403 for 447441395830", "the dial failed: no connection", DIAL),
        (
            "noise handshake failed: timed out waiting for handshake response",
            "the Noise handshake failed: timed out",
            HANDSHAKE,
        ),
        (
            "noise handshake failed: failed to verify server cert: …",
            "the Noise handshake failed: cert",
            HANDSHAKE,
        ),
        (
            "noise handshake failed: failed to send handshake message: use of closed network connection",
            "the Noise handshake failed: closed",
            HANDSHAKE,
        ),
        ("database is locked (5) (SQLITE_BUSY)", "the library ended with an error of no known kind", UNKNOWN),
        ("", "the library ended with an error of no known kind", UNKNOWN),
        ("None", "the library ended with an error of no known kind", UNKNOWN),
    ],
)
def test_a_start_that_failed_is_reported_by_its_stage_without_addresses(
    text: str, report: str, stage: d.ConnectStage
) -> None:
    assert library_events.error_report(text) == d.Unreachable(report, stage)


@given(st.text(max_size=200))
def test_an_error_of_no_known_kind_is_never_a_refusal(text: str) -> None:
    known = ("ConnectFailure.Reason", "TemporaryBan.Code", "not a database", "malformed", "proxy scheme")
    assume(not any(word in text for word in known))
    assert isinstance(library_events.error_report(text), d.Unreachable)


@pytest.mark.parametrize(
    ("text", "refusal", "report"),
    [
        ("proto: required field neonize.ConnectFailure.Reason not set", None, d.ConnectFailed("unknown")),
        (
            "proto: required field neonize.ConnectFailure.Reason not set",
            Refusal(463, None, None),
            d.ConnectFailed("463"),
        ),
        ("proto: required field neonize.TemporaryBan.Code not set", None, d.TemporaryBan(0, None)),
        ("proto: required field neonize.TemporaryBan.Code not set", Refusal(402, 199, 60), d.TemporaryBan(199, 60.0)),
        ("failed to upgrade database: file is not a database", None, d.ConnectFailed("store_unreadable")),
        ('unsupported proxy scheme "nonsense"', None, d.ConnectFailed("proxy_unsupported")),
    ],
)
def test_refusals_that_neonize_cannot_decode(text: str, refusal: Refusal | None, report: d.Report) -> None:
    assert library_events.error_report(text, refusal) == report


@pytest.mark.parametrize(("total", "lifetime"), [(1, 20), (4, 80), (6, 160), (8, 200)])
def test_code_times_sum_up_to_the_lifetime_of_all_codes(total: int, lifetime: float) -> None:
    assert library_events.codes_ttl(total) == lifetime


def test_what_the_librarys_log_holds() -> None:
    lost: list[str] = []
    log = LibraryLog(lost.append)
    log.feed(b'\nKUnknown connect failure: <failure location="rva" reason="463"/>\x12\x04WARN')
    assert log.refusal == Refusal(463, None, None)
    log.feed(b'Temporary ban connect failure: <failure code="199" expire="3600" reason="402"/>')
    assert log.refusal == Refusal(402, 199, 3600)
    log.feed(b'<iq id="1" type="set"><pair-device><ref>2@a</ref><ref>2@b</ref></pair-device></iq>')
    assert log.codes == 2
    assert not log.ran_out
    log.feed(b"Ran out of QR codes, closing channel with status timeout and disconnecting client")
    assert log.ran_out
    log.feed(b"Failed to reconnect after 515 code: failed to dial whatsapp web websocket: EOF")
    assert lost == ["failed to dial whatsapp web websocket: EOF"]


@given(st.binary(max_size=300))
def test_no_line_breaks_the_reader_of_the_log(line: bytes) -> None:
    log = LibraryLog(lambda _: None)
    for part in (line, b"connect failure: <failure " + line + b">", b"<pair-device>" + line):
        log.feed(part)


@pytest.mark.parametrize(
    ("user", "number"), [("447441395830", "+447441395830"), ("447441395830:34", "+447441395830"), ("", ""), ("abc", "")]
)
def test_phone_number_of_a_jid(user: str, number: str) -> None:
    assert library_events.phone_number(user) == number
