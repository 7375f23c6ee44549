"""Coverage-guided by atheris: what reads a stranger's bytes. `python -m tests.sockets.parsers_fuzzer SECONDS`."""

from __future__ import annotations

import sys
from contextlib import suppress

import atheris

with atheris.instrument_imports(include=["roundtrip", "engineio", "socketio"]):
    from engineio.packet import Packet
    from engineio.payload import Payload
    from socketio.packet import Packet as Message

    from roundtrip.api.problems import Problem
    from roundtrip.api.routes import BodyLimits, parse_object
    from roundtrip.api.schemas import LinkRequest, SimulateRequest
    from roundtrip.identity import BotKey, IdentityError
    from roundtrip.limits.addresses import Proxies
    from roundtrip.sockets.access import parse_handshake
    from roundtrip.sockets.engineio.server import Json

EXPECTED = (ValueError, IndexError, KeyError, TypeError, AttributeError)
"""What the dependencies raise for a broken packet; `sockets/engineio` catches these and more."""


Packet.json = Message.json = Json
PROXIES = Proxies(["10.0.0.0/8"])


def engine_packet(data: bytes) -> None:
    with suppress(*EXPECTED):
        Packet(encoded_packet=data.decode(errors="replace"))


def engine_payload(data: bytes) -> None:
    with suppress(*EXPECTED):
        Payload(encoded_payload=data.decode(errors="replace"))


def message(data: bytes) -> None:
    with suppress(*EXPECTED):
        Message(encoded_packet=data.decode(errors="replace"))


def body(data: bytes) -> None:
    for shape in (LinkRequest, SimulateRequest):
        with suppress(Problem):
            parse_object(data, shape, BodyLimits())


def handshake(data: bytes) -> None:
    auth: object = None
    with suppress(ValueError):
        auth = Json.loads(data)
    read = parse_handshake(auth, {"QUERY_STRING": data.decode(errors="replace")}, "10.0.0.1")
    with suppress(IdentityError):
        BotKey.parse(read.user_id, read.bot_id)


def forwarded(data: bytes) -> None:
    PROXIES.client("10.0.0.1", [data.decode(errors="replace")])


PARSERS = (engine_packet, engine_payload, message, body, handshake, forwarded)


def one(data: bytes) -> None:
    """Own code may raise what it says it raises and nothing else; that of others nothing fatal."""
    if data:
        PARSERS[data[0] % len(PARSERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], f"-max_total_time={sys.argv[1]}", "-max_len=4096", "-rss_limit_mb=2048"], one)
    atheris.Fuzz()
