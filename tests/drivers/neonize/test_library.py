"""Every event class of neonize, with real protobuf bytes, through neonize's own dispatch, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from roundtrip.drivers.neonize import library_events

ROOT = Path(__file__).resolve().parents[3]
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
from roundtrip.drivers.neonize import footprint
footprint.block_unused()
import asyncio, ctypes, json, logging, sys, threading
logging.basicConfig(handlers=[logging.NullHandler()])
footprint.install_stubs()
import neonize.aioze.events as ev
from neonize.events import EVENT_TO_INT
from neonize.proto.Neonize_pb2 import *
from roundtrip.drivers.neonize import library
from roundtrip.drivers.neonize.library_events import READERS

async def main():
    ev.event_global_loop = None
    ev.set_event_loop(asyncio.get_running_loop())
    client = library.NewAClient("/nowhere", uuid="test")
    reports = asyncio.Queue()
    for name in READERS:
        async def on_event(_client, message, name=name):
            await reports.put(READERS[name](message))
        client.event(library.EVENTS[name])(on_event)
    found = []
    for case in json.load(sys.stdin):
        message = eval(case)
        raw = message.SerializeToString()
        buffer = ctypes.create_string_buffer(raw, len(raw) or 1)
        args = (client.uuid, ctypes.addressof(buffer), len(raw), EVENT_TO_INT[type(message)])
        threading.Thread(target=client.event.execute, args=args).start()
        report = await asyncio.wait_for(reports.get(), 5)
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
    assert tried == set(library_events.READERS)
    assert tried <= set(outcome()["known"])


def test_a_worker_loads_none_of_what_it_does_not_need() -> None:
    loaded = {name.partition(".")[0] for name in outcome()["modules"]}
    assert not loaded & {"urllib3", "bs4", "rich", "lxml", "chardet", "_ssl"}
    assert not [path for path in outcome()["maps"] if "libmagic" in path or "libssl" in path]
