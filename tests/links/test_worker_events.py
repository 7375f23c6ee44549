"""Every event class of neonize, with real protobuf bytes, through neonize's own dispatch (in a process of its own)."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roundtrip.drivers import base as d
from roundtrip.drivers.neonize import library_events as worker_events
from roundtrip.drivers.neonize.worker import LibraryLog, Refusal

ROOT = Path(__file__).resolve().parents[2]

JID = 'JID(User="447441395830", Device=7, Server="s.whatsapp.net", RawAgent=0, Integrator=0, IsEmpty=False)'
NODE = 'Node(Tag="failure")'

CASES = {
    f"PairStatus(ID={JID}, BusinessName='', Platform='android', Status=2)": "PairSucceeded +447441395830",
    f"PairStatus(ID={JID}, BusinessName='', Platform='', Status=1, Error='447441395830')": "ConnectFailed pair_error",
    "KeepAliveTimeout(ErrorCount=1, LastSuccess=0)": "KeepAliveLost",
    "KeepAliveRestored()": "KeepAliveRestored",
    "LoggedOut(OnConnect=False, Reason=1)": "LoggedOutByPhone 401",
    "LoggedOut(OnConnect=True, Reason=2)": "LoggedOutByPhone 401",
    "LoggedOut(OnConnect=True, Reason=4)": "LoggedOutByPhone 403",
    "LoggedOut(OnConnect=True, Reason=5)": "LoggedOutByPhone 406",
    "StreamReplaced()": "StreamReplaced",
    "TemporaryBan(Code=1, Expire=3600)": "TemporaryBan 101 3600.0",
    "TemporaryBan(Code=2, Expire=60)": "TemporaryBan 102 60.0",
    "TemporaryBan(Code=3, Expire=60)": "TemporaryBan 103 60.0",
    "TemporaryBan(Code=4, Expire=60)": "TemporaryBan 104 60.0",
    "TemporaryBan(Code=5, Expire=0)": "TemporaryBan 106 None",
    f"ConnectFailure(Reason=1, Message='', Raw={NODE})": "ConnectFailed 400",
    f"ConnectFailure(Reason=7, Message='', Raw={NODE})": "ConnectFailed 409",
    f"ConnectFailure(Reason=8, Message='', Raw={NODE})": "ConnectFailed 500",
    f"ConnectFailure(Reason=9, Message='', Raw={NODE})": "ConnectFailed 501",
    f"ConnectFailure(Reason=10, Message='', Raw={NODE})": "ConnectFailed 503",
    "ClientOutdated()": "Outdated",
    f"StreamError(Code='503', Raw={NODE})": "StreamFailed 503",
    f"StreamError(Code='447441395830', Raw={NODE})": "StreamFailed unknown",
    f"StreamError(Code='', Raw={NODE})": "StreamFailed unknown",
    "Disconnected(status=True)": "Offline",
}

SCRIPT = """
from roundtrip.drivers.neonize import footprint as lean
lean.without_unused()
import asyncio, ctypes, json, logging, sys, threading
logging.basicConfig(handlers=[logging.NullHandler()])
lean.install()
import neonize.aioze.events as ev
from neonize.events import EVENT_TO_INT
from neonize.proto.Neonize_pb2 import *
from roundtrip.drivers.neonize import library
from roundtrip.drivers.neonize.library_events import READERS

async def main():
    ev.event_global_loop = None
    ev.set_event_loop(asyncio.get_running_loop())
    client = library.NewAClient("/nowhere", uuid="test")
    heard = asyncio.Queue()
    for name in READERS:
        async def on_event(_client, message, name=name):
            await heard.put(READERS[name](message))
        client.event(library.EVENTS[name])(on_event)
    found = []
    for case in json.load(sys.stdin):
        message = eval(case)
        raw = message.SerializeToString()
        buffer = ctypes.create_string_buffer(raw, len(raw) or 1)
        args = (client.uuid, ctypes.addressof(buffer), len(raw), EVENT_TO_INT[type(message)])
        threading.Thread(target=client.event.execute, args=args).start()
        report = await asyncio.wait_for(heard.get(), 5)
        fields = [str(getattr(report, field)) for field in report.__struct_fields__]
        found.append(" ".join([type(report).__name__, *fields]))
    modules = [name for name, module in sys.modules.items() if module]
    maps = [line.split()[-1] for line in open("/proc/self/maps")]
    known = [c.__name__ for c in EVENT_TO_INT]
    print(json.dumps({"found": found, "known": known, "modules": modules, "maps": maps}))
    sys.stdout.flush()
    import os; os._exit(0)

asyncio.run(main())
"""


@cache
def outcome() -> dict[str, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(CASES)),
        capture_output=True,
        text=True,
        cwd=ROOT / "backend",
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, list[str]] = json.loads(run.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(("case", "expected"), CASES.items())
def test_what_each_event_means(case: str, expected: str) -> None:
    assert outcome()["found"][list(CASES).index(case)] == expected


def test_every_event_that_is_read_has_a_case_and_is_one_of_neonize() -> None:
    tried = {case.partition("(")[0] for case in CASES}
    assert tried == set(worker_events.READERS)
    assert tried <= set(outcome()["known"])


def test_a_worker_loads_none_of_what_it_does_not_need() -> None:
    loaded = {name.partition(".")[0] for name in outcome()["modules"]}
    assert not loaded & {"urllib3", "bs4", "rich", "lxml", "chardet", "_ssl"}
    assert not [path for path in outcome()["maps"] if "libmagic" in path or "libssl" in path]


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
def test_a_start_that_failed_is_told_by_its_stage_without_what_it_names(
    text: str, report: str, stage: d.ConnectStage
) -> None:
    assert worker_events.of_error(text) == d.Unreachable(report, stage)


@given(st.text(max_size=200))
def test_an_error_of_no_known_kind_is_never_a_refusal(text: str) -> None:
    known = ("ConnectFailure.Reason", "TemporaryBan.Code", "not a database", "malformed", "proxy scheme")
    assume(not any(word in text for word in known))
    assert isinstance(worker_events.of_error(text), d.Unreachable)


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
def test_refusals_that_neonize_cannot_say(text: str, refusal: Refusal | None, report: d.Report) -> None:
    assert worker_events.of_error(text, refusal) == report


@pytest.mark.parametrize(("total", "lifecycle"), [(1, 20), (4, 80), (6, 160), (8, 200)])
def test_code_times_sum_up_to_the_life_of_all_codes(total: int, lifecycle: float) -> None:
    assert worker_events.codes_life(total) == lifecycle


def test_what_the_librarys_log_tells() -> None:
    lost: list[str] = []
    log = LibraryLog(lost.append)
    log.take(b'\nKUnknown connect failure: <failure location="rva" reason="463"/>\x12\x04WARN')
    assert log.refusal == Refusal(463, None, None)
    log.take(b'Temporary ban connect failure: <failure code="199" expire="3600" reason="402"/>')
    assert log.refusal == Refusal(402, 199, 3600)
    log.take(b'<iq id="1" type="set"><pair-device><ref>2@a</ref><ref>2@b</ref></pair-device></iq>')
    assert log.codes == 2
    assert not log.ran_out
    log.take(b"Ran out of QR codes, closing channel with status timeout and disconnecting client")
    assert log.ran_out
    log.take(b"Failed to reconnect after 515 code: failed to dial whatsapp web websocket: EOF")
    assert lost == ["failed to dial whatsapp web websocket: EOF"]


@given(st.binary(max_size=300))
def test_no_line_breaks_the_reader_of_the_log(line: bytes) -> None:
    log = LibraryLog(lambda _: None)
    for part in (line, b"connect failure: <failure " + line + b">", b"<pair-device>" + line):
        log.take(part)


@pytest.mark.parametrize(
    ("user", "number"), [("447441395830", "+447441395830"), ("447441395830:34", "+447441395830"), ("", ""), ("abc", "")]
)
def test_phone_number_of_a_jid(user: str, number: str) -> None:
    assert worker_events.phone_number(user) == number
