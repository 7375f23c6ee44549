"""Every route and the handshake, with every kind of caller: who gets in, and what they learn."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import socketio

from roundtrip.api.routes import Route
from roundtrip.api.spec.openapi import public_rows
from roundtrip.auth.authenticators import JwtAuthenticator
from roundtrip.auth.jwks import OneKey
from roundtrip.auth.service_keys import ALL_SCOPES, Scope, ServiceKeys
from roundtrip.events import Connected, Qr
from roundtrip.identity import BotKey
from roundtrip.limits.rates import Limits, Rules
from roundtrip.links.record import LinkState
from roundtrip.settings import Settings
from roundtrip.sockets.access import Admission
from tests.support.api import Api, api
from tests.support.py_client import PyClient, eventually
from tests.support.sockets import stage
from tests.support.tokens import ISSUER, USER, confused, handmade, private_key, public_pem, token, unsigned

LATER = int(time.time()) + 3600
OTHER = "user_somebody_else"
KEY = BotKey(USER, "bot")
SECRET = "2@canary"  # noqa: S105  # a QR code for the test
IDENTITY = JwtAuthenticator(OneKey(public_pem(private_key("RS256"))), issuer=ISSUER, audience=None)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


SERVICES = ServiceKeys.parse(
    ",".join(
        (
            f"all:{'+'.join(ALL_SCOPES)}:{digest('key of all')}",
            *(
                f"no-{scope.name.lower()}:{'+'.join(ALL_SCOPES - {scope})}:{digest(f'key without {scope}')}"
                for scope in Scope
            ),
        )
    )
)


@dataclass(frozen=True)
class Kind:
    """A kind of caller. `refused` is status and code on every route with a scope; None gets in, as `user`."""

    name: str
    refused: tuple[int, str] | None
    headers: Mapping[str, str] = field(default_factory=dict)
    user: str = USER


def bearer(made: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {made}"}


NO = (401, "unauthorized")
KINDS = (
    Kind("nobody", NO),
    Kind("says who it is", NO, {"X-User-Id": USER}),
    Kind("says it in the query", NO),
    Kind("rubbish", NO, bearer("rubbish")),
    Kind("another scheme", NO, {"Authorization": f"Basic {token()}"}),
    Kind("token ran out", NO, bearer(token(exp=int(time.time()) - 100))),
    Kind("token not valid yet", NO, bearer(token(nbf=int(time.time()) + 1000))),
    Kind("another issuer", NO, bearer(token(exp=LATER, iss="https://elsewhere.test"))),
    Kind("another key", NO, bearer(token(private_key("RS256", 1)))),
    Kind("no signature", NO, bearer(unsigned())),
    Kind("HMAC with the public key", NO, bearer(confused(public_pem(private_key("RS256")).encode()))),
    Kind("no user", NO, bearer(handmade(sub=None))),
    Kind("owner", None, bearer(token(exp=LATER))),
    Kind("owner, and says so", None, {**bearer(token(exp=LATER)), "X-User-Id": USER}),
    Kind("says it is another", (403, "forbidden"), {**bearer(token(sub=OTHER, exp=LATER)), "X-User-Id": USER}),
    Kind("another user", None, bearer(token(sub=OTHER, exp=LATER)), OTHER),
    Kind("unknown service", NO, {"X-Api-Key": "rubbish", "X-User-Id": USER}),
    Kind(
        "unknown service with a good token", NO, {**bearer(token(exp=LATER)), "X-Api-Key": "rubbish", "X-User-Id": USER}
    ),
    Kind("service for nobody", (400, "user_id_invalid"), {"X-Api-Key": "key of all"}),
    Kind("service", None, {"X-Api-Key": "key of all", "X-User-Id": USER}),
    Kind("service for another", None, {"X-Api-Key": "key of all", "X-User-Id": OTHER}, OTHER),
)
ROWS = public_rows()


@pytest.fixture
async def served() -> AsyncIterator[Api]:
    async with api(authenticator=IDENTITY, services=SERVICES, trusted=False, allow_faults=True) as it:
        it.links.states[KEY] = LinkState.CONNECTED
        yield it


async def ask(served: Api, row: Route, headers: Mapping[str, str], event_id: str) -> tuple[int, Any]:
    path = row.path.replace("{bot_id}", KEY.bot_id).replace("{event_id}", event_id)
    body = {"action": "scan"} if row.name == "simulate" else {} if row.method == "PUT" else None
    if row.name == "sendSpans":
        body = span_of(event_id)
    status, data, _ = await served.call(row.method, path, user=None, headers=headers, json=body)
    return status, data


def span_of(event_id: str) -> dict[str, Any]:
    """A request with one span that names this event, in a trace that is not the event's."""
    ids = {"traceId": "1" * 32, "spanId": "2" * 16, "parentSpanId": "3" * 16}
    times = {"startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    attributes = [{"key": "messaging.message.id", "value": {"stringValue": event_id}}]
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{**ids, **times, "attributes": attributes}]}]}]}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_every_route_with_every_kind_of_caller(served: Api, row: Route, kind: Kind) -> None:
    event = await served.event(KEY, Qr(SECRET, 1, 6, "2026-01-01T00:00:20.000Z"))
    status, data = await ask(served, row, kind.headers, event.id)
    if row.scope is None:
        assert status == row.status
    elif kind.refused is not None:
        assert (status, data["code"]) == kind.refused
        assert served.links.commands == []
    elif kind.user == USER:
        assert status == row.status
    else:
        await learns_nothing(served, row, kind, (status, data), event.id)
    assert SECRET not in str(data)


async def learns_nothing(served: Api, row: Route, kind: Kind, answer: tuple[int, Any], event_id: str) -> None:
    """Another user's answer is the very one that they would get if the owner did not exist."""
    assert all(key.user_id == kind.user for _, key, _ in served.links.commands)
    assert "connected" not in str(answer[1]).replace("'connected': []", "") or row.name == "readConfig"
    never = event_id[:-1] + ("0" if event_id[-1] != "0" else "1")
    async with api(authenticator=IDENTITY, services=SERVICES, trusted=False) as empty:
        assert await ask(empty, row, kind.headers, never) == answer


@pytest.mark.parametrize("row", [row for row in ROWS if row.scope], ids=lambda row: row.name)
async def test_a_service_does_what_it_was_given_and_no_more(served: Api, row: Route) -> None:
    assert row.scope is not None
    for scope in Scope:
        headers = {"X-Api-Key": f"key without {scope}", "X-User-Id": USER}
        event = await served.event(KEY)
        status, data = await ask(served, row, headers, event.id)
        if scope is row.scope:
            assert (status, data["code"]) == (403, "forbidden")
        else:
            assert status == row.status


@pytest.mark.parametrize("row", [row for row in ROWS if row.scope], ids=lambda row: row.name)
async def test_codes_are_for_those_who_may_pair(served: Api, row: Route) -> None:
    """Whoever reads a code can link the account to a device of their own: to see how a link is, none is needed."""
    served.links.states[KEY] = LinkState.QR
    served.links.codes[KEY] = (SECRET, "ABCD-1234")
    event = await served.event(KEY, Qr(SECRET, 1, 6, "2026-01-01T00:00:20.000Z"))
    shown: dict[str, Any] = {}
    for name in ("key of all", *(f"key without {scope}" for scope in Scope if scope is not row.scope)):
        status, shown[name] = await ask(served, row, {"X-Api-Key": name, "X-User-Id": USER}, event.id)
        assert status == row.status
    _, shown["owner"] = await ask(served, row, bearer(token(exp=LATER)), event.id)
    for name, data in shown.items():
        may = row.name in {"readLink", "endLink", "simulate"} and name != f"key without {Scope.LINKS_CODES}"
        assert (SECRET in str(data)) is ("ABCD-1234" in str(data)) is may, (row.name, name)
        assert row.name == "endLink" or data.get("state", "qr") == "qr"  # how it is, everybody with the scope may know


def test_every_row_that_is_about_somebody_asks_who_calls() -> None:
    assert {row.name for row in ROWS if row.scope is None} == {"readConfig", "health"}


HANDSHAKES: tuple[tuple[str, dict[str, Any], str | None], ...] = (
    ("nobody", {}, "unauthorized"),
    ("says who it is", {"userId": USER}, "unauthorized"),
    ("rubbish", {"token": "rubbish"}, "unauthorized"),
    ("a number", {"token": 7}, "unauthorized"),
    ("an object", {"token": {"sub": USER}}, "unauthorized"),
    ("token ran out", {"token": token(exp=int(time.time()) - 100)}, "unauthorized"),
    ("another issuer", {"token": token(iss="https://elsewhere.test")}, "unauthorized"),
    ("no signature", {"token": unsigned()}, "unauthorized"),
    ("a service key", {"token": "key of all", "userId": USER}, "unauthorized"),
    ("says it is another", {"token": token(sub=OTHER, exp=LATER), "userId": USER}, "forbidden"),
    ("owner", {"token": token(exp=LATER)}, None),
    ("owner, and says so", {"token": token(exp=LATER), "userId": USER}, None),
    ("another user", {"token": token(sub=OTHER, exp=LATER)}, None),
)


@asynccontextmanager
async def sockets() -> AsyncIterator[Any]:
    limits = Limits(Rules.of(Settings(auth="trusted")), lambda _limit: None)
    # short: the Python client waits for its last poll to end
    async with stage(admit=Admission(IDENTITY, limits), ping_interval=0.3, ping_timeout=0.4) as s:
        yield s


@pytest.mark.parametrize(("name", "auth", "refusal"), HANDSHAKES, ids=[name for name, _, _ in HANDSHAKES])
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_the_handshake_with_every_kind_of_caller(
    name: str, auth: dict[str, Any], refusal: str | None, transport: str
) -> None:
    async with sockets() as s:
        stored = await s.courier.publish(KEY, "link", Connected("+4915112345678", "Ada", first=True))
        client = PyClient()
        refusals: list[Any] = []
        client.io.on("connect_error", refusals.append)
        try:
            await client.io.connect(s.url, auth={"botId": "bot", **auth}, transports=[transport])
        except socketio.exceptions.ConnectionError:
            assert refusal is not None
            await eventually(lambda: refusals)
            assert refusals[0]["data"] == {"code": refusal}
            assert s.notes.connects == [refusal]
            assert len(s.registry) == 0
        else:
            assert refusal is None
            await client.until(lambda: client.snapshots)
            if name.startswith("owner"):
                assert [event["id"] for event in await client.count(1)] == [stored.id]
            else:
                await s.courier.publish(KEY, "link", Connected("+4915112345678", "Ada", first=False))
                await client.io.emit("status")
                await client.until(lambda: len(client.snapshots) == 2)
                assert client.events == []
                assert {snapshot["userId"] for snapshot in client.snapshots} == {OTHER}
        finally:
            await client.io.shutdown()
