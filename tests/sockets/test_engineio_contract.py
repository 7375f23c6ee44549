"""What the program uses of python-engineio, python-socketio and aiohttp beyond their documentation.

A new version that changes it fails here: by name where it is private, by behaviour where a client shows it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from functools import cache
from importlib import import_module
from importlib.metadata import version

import engineio
import pytest
import socketio
from aiohttp import web
from engineio.async_drivers import aiohttp as driver
from engineio.async_socket import AsyncSocket

from roundtrip.events import Connected, Degraded
from roundtrip.identity import BotKey
from roundtrip.outbox.records import Outcome
from tests.support.node_client import node_client
from tests.support.program import ROOT
from tests.support.sockets import stage

KEY = BotKey("user", "bot")
AUTH = {"userId": "user", "botId": "bot"}

VERSIONS = {"python-engineio": "4.15.1", "python-socketio": "5.18.1", "aiohttp": "3.14.5"}
"""The versions whose source the names below were read in. Raise one after reading it again."""

ATTRIBUTE = "attribute"

PRIVATE_NAMES: dict[tuple[str, type], dict[str, str]] = {
    ("roundtrip.sockets.engineio.socket", AsyncSocket): {},
    ("roundtrip.sockets.engineio.socket", engineio.AsyncServer): {
        "_trigger_event": "(self, event, *args, **kwargs)",
    },
    ("roundtrip.sockets.engineio.transports", AsyncSocket): {
        "_upgrade_websocket": "(self, environ)",
        "_websocket_handler": "(self, ws)",
    },
    ("roundtrip.sockets.engineio.transports", engineio.AsyncServer): {
        "_async": ATTRIBUTE,
        "_bad_request": "(self, message=None)",
    },
    ("roundtrip.sockets.engineio.websocket", web.WebSocketResponse): {
        "_post_start": "(self, request: aiohttp.web_request.BaseRequest, protocol: str | None, "
        "writer: aiohttp._websocket.writer.WebSocketWriter) -> None",
    },
    ("roundtrip.sockets.engineio.websocket", web.RequestHandler): {
        "_message_tail": ATTRIBUTE,
        "_payload_parser": ATTRIBUTE,
    },
    ("roundtrip.sockets.engineio.frames", web.WebSocketResponse): {
        "_max_msg_size": ATTRIBUTE,
        "_parser": ATTRIBUTE,
        "_reader": ATTRIBUTE,
    },
    ("roundtrip.sockets.engineio.frames", web.RequestHandler): {
        "_messages": ATTRIBUTE,
        "_parser": ATTRIBUTE,
        "_payload_parser": ATTRIBUTE,
    },
    ("roundtrip.sockets.engineio.connection", AsyncSocket): {},
    ("roundtrip.sockets.engineio.server", engineio.AsyncServer): {
        "_async": ATTRIBUTE,
        "_handle_connect": "(self, environ, transport, jsonp_index=None)",
        "_ok": "(self, packets=None, headers=None, jsonp_index=None)",
        "_trigger_event": "(self, event, *args, **kwargs)",
        "_upgrades": "(self, sid, transport)",
    },
    ("roundtrip.sockets.engineio.server", socketio.AsyncServer): {
        "_binary_packet": ATTRIBUTE,
        "_engineio_server_class": "(self)",
        "_handle_ack": "(self, eio_sid, namespace, id, data)",
        "_handle_connect": "(self, eio_sid, namespace, data)",
        "_handle_disconnect": "(self, eio_sid, namespace, reason=None)",
        "_handle_eio_connect": "(self, eio_sid, environ)",
        "_handle_eio_disconnect": "(self, eio_sid, reason)",
        "_handle_eio_message": "(self, eio_sid, data)",
        "_handle_event": "(self, eio_sid, namespace, id, data)",
    },
    ("roundtrip.sockets.engineio.server", web.BaseRequest): {"_headers": ATTRIBUTE, "_message": ATTRIBUTE},
    ("roundtrip.api.http_handler", web.RequestHandler): {
        "_messages": ATTRIBUTE,
        "_payload_parser": ATTRIBUTE,
        "_request_count": ATTRIBUTE,
        "_request_handler": ATTRIBUTE,
        "_request_in_progress": ATTRIBUTE,
        "_upgraded": ATTRIBUTE,
    },
    ("roundtrip.api.http_handler", web.Response): {"_prepare_headers": "(self) -> None"},
    ("roundtrip.api.http_handler", web.BaseRequest): {"_version": ATTRIBUTE},
    ("roundtrip.api.http_handler", web.Server): {"_kwargs": ATTRIBUTE},
}
"""By the module that uses it and the class it belongs to: the private name, and a method's signature. Where it is
empty, the module derives from the class, and must not meet a private name of it by chance."""

UPSTREAM = {upstream for _, upstream in PRIVATE_NAMES}

OWN_NAMES = {"_body", "_loop", "_start", "_state", "_status"}
"""Names of our own, which some class of upstream has as well that has nothing to do with them."""

OWN_NAMES_IN = {
    "roundtrip.api.spec.asyncapi": {"_message"},
    "roundtrip.api.reference": {"_messages"},
    "roundtrip.api.debug.console": {"_reader"},
    "roundtrip.api.debug.misses": {"_waiting"},
    "roundtrip.cluster.turns": {"_task"},
}
"""The same, in one module only: elsewhere the name is upstream's."""

UNDOCUMENTED_NAMES: dict[type, set[str]] = {
    AsyncSocket: {
        "check_ping_timeout",
        "close",
        "closed",
        "closing",
        "connected",
        "handle_get_request",
        "handle_post_request",
        "last_ping",
        "poll",
        "queue",
        "receive",
        "schedule_ping",
        "send",
        "upgraded",
        "upgrading",
    },
    engineio.AsyncServer: {
        "create_queue",
        "disconnect",
        "generate_id",
        "handle_request",
        "max_http_buffer_size",
        "ping_interval",
        "ping_timeout",
        "reason",
        "sockets",
    },
    socketio.AsyncServer: {"eio", "environ", "manager", "packet_class", "reason"},
}
"""What has a public name, but no public documentation."""


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
async def test_a_client_that_never_acks_confirms_by_receipt(transports: list[str]) -> None:
    async with stage() as s, node_client(s.url, AUTH, ack="no", transports=transports) as client:
        await client.heard("status")
        for _ in range(20):
            await s.courier.publish(KEY, "link", Degraded())
        await client.heard("event", 20)
        async with asyncio.timeout(5):
            while len(s.notes.settled_) < 20:
                await asyncio.sleep(0.01)
        assert {d.outcome for d in s.notes.settled_} == {Outcome.RECEIVED}
        assert [event["seq"] for event in client.events] == list(range(1, 21))
        assert not s.notes.missed_


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]])
async def test_acks_come_back_on_every_transport(transports: list[str]) -> None:
    async with stage() as s, node_client(s.url, AUTH | {"acks": True}, transports=transports) as client:
        await client.heard("status")
        for _ in range(20):
            await s.courier.publish(KEY, "link", Degraded())
        async with asyncio.timeout(5):
            while len(s.notes.settled_) < 20:
                await asyncio.sleep(0.01)
        assert {d.outcome for d in s.notes.settled_} == {Outcome.ACKED}
        await client.heard("event", 20)  # its acknowledgements are faster than its report
        assert [event["seq"] for event in client.events] == list(range(1, 21))


async def test_events_in_a_stream_survive_the_upgrade_in_order() -> None:
    async with stage() as s:
        for _ in range(100):
            await s.courier.publish(KEY, "link", Connected("+15550100", "Ada", False))
        async with node_client(s.url, AUTH | {"acks": True}) as client:
            for _ in range(300):
                await s.courier.publish(KEY, "link", Connected("+15550100", "Ada", False))
                await asyncio.sleep(0.002)
            await client.heard("event", 400)
            await client.heard("upgrade")
            assert [event["seq"] for event in client.events] == list(range(1, 401))
            assert [event["replayed"] for event in client.events][:100] == [True] * 100
            async with asyncio.timeout(5):
                while len(s.notes.settled_) < 400:
                    await asyncio.sleep(0.01)


@cache
def used_in(module: str) -> set[str]:
    """Every private name that a module defines in a class, or gets or sets at an object."""
    source = inspect.getsource(import_module(module))
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def offered_by(upstream: type) -> dict[str, str]:
    """Its private names."""
    return {name: kind for name, kind in known_to(upstream).items() if name.startswith("_") and name[1] != "_"}


@cache
def known_to(upstream: type) -> dict[str, str]:
    """All names of a class: a method with its signature, whatever else as an attribute."""
    found: dict[str, str] = {}
    for base in upstream.__mro__[:-1]:
        if base.__module__.partition(".")[0] not in {"engineio", "socketio", "aiohttp"}:
            continue
        for name, value in vars(base).items():
            callable_ = inspect.isfunction(value)
            found.setdefault(name, str(inspect.signature(value)) if callable_ else ATTRIBUTE)
        for node in ast.walk(ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.setdefault(node.attr, ATTRIBUTE)
    return found


def modules() -> list[str]:
    """Those of the program that use one of the three libraries."""
    uses = re.compile(r"(?m)^(?:from|import) (?:aiohttp|engineio|socketio|roundtrip\.sockets)\b")
    paths = [path for path in sorted((ROOT / "backend").rglob("*.py")) if uses.search(path.read_text())]
    return [".".join(path.relative_to(ROOT / "backend").with_suffix("").parts) for path in paths]


@pytest.mark.parametrize("name", VERSIONS)
def test_an_installed_library_has_the_version_that_was_read(name: str) -> None:
    pinned = re.search(rf"(?m)^{name}==(\S+)", (ROOT / "requirements.lock").read_text())
    assert pinned is not None
    assert VERSIONS[name] == pinned[1] == version(name)


@pytest.mark.parametrize(("module", "upstream"), PRIVATE_NAMES, ids=lambda it: getattr(it, "__name__", it))
def test_a_private_name_that_is_used_is_still_what_it_was(module: str, upstream: type) -> None:
    offered, used = offered_by(upstream), used_in(module)
    named = PRIVATE_NAMES[module, upstream]
    assert {name: offered.get(name) for name in named} == named
    assert named.keys() <= used, "it is not used any more"
    assert not OWN_NAMES & used & offered.keys(), "upstream has taken a name of ours"


@pytest.mark.parametrize("module", [name for name in modules() if ".engineio." in name])
def test_a_module_names_the_versions_of_what_it_replaces(module: str) -> None:
    source = inspect.getdoc(import_module(module)) or ""
    named = dict(re.findall(r"(python-engineio|python-socketio|aiohttp)\s+(\d+(?:\.\d+)+)", source))
    assert named
    assert named.items() <= VERSIONS.items()
    assert "Could be deleted when" in source


@pytest.mark.parametrize("module", modules())
def test_each_private_name_of_upstream_is_named_here(module: str) -> None:
    theirs = {name for upstream in UPSTREAM for name in offered_by(upstream)}
    named = {name for (its, _), names in PRIVATE_NAMES.items() if its == module for name in names}
    assert used_in(module) & theirs - OWN_NAMES - OWN_NAMES_IN.get(module, set()) == named


@pytest.mark.parametrize("upstream", UNDOCUMENTED_NAMES, ids=lambda it: f"{it.__module__}.{it.__name__}")
def test_what_upstream_does_not_document_is_still_there(upstream: type) -> None:
    assert UNDOCUMENTED_NAMES[upstream] - known_to(upstream).keys() == set()


def test_the_entries_of_the_driver_are_still_there() -> None:
    """The route, the request as an environ, and the websocket's class come by name."""
    assert driver._async.keys() == {"asyncio", "create_route", "translate_request", "make_response", "websocket"}
    made = inspect.getsource(driver.translate_request)
    for key in ("wsgi.input", "aiohttp.request", "QUERY_STRING", "CONTENT_LENGTH"):
        assert f"'{key}'" in made
