"""The documents are what the code says, are valid, and are what the wire carries."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT7

from roundtrip.api.problems import STATUS
from roundtrip.api.spec.asyncapi import asyncapi
from roundtrip.api.spec.openapi import DOCS, codes_of, documents, main, openapi, public_rows
from roundtrip.delivery.wire import event_frame
from roundtrip.events import PAYLOADS, PUBLIC_TYPES, Banned, Connected, Payload, Qr
from roundtrip.identity import BotKey
from roundtrip.links.reasons import ADVICE
from roundtrip.outbox.records import Draft, Mode, StoredEvent, body, key_part
from tests.support.api import api
from tests.support.drafts import TRACEPARENT

SPECS = DOCS.parent / "node_modules" / "@asyncapi" / "specs" / "schemas"


def test_the_documents_are_up_to_date(tmp_path: Path) -> None:
    main(tmp_path)
    for name in documents():
        assert (DOCS / name).read_bytes() == (tmp_path / name).read_bytes(), (
            "run: .venv/bin/python -m roundtrip.api.spec.openapi"
        )


@pytest.mark.parametrize("make", [openapi, asyncapi])
def test_every_reference_leads_somewhere(make: Any) -> None:
    document = make()
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)))
    assert references
    for reference in references:
        part: Any = document
        for name in reference.split("/"):
            part = part[name]


def test_the_openapi_document_is_valid() -> None:
    from schemathesis.specs.openapi import definitions

    definitions.OPENAPI_31_VALIDATOR.validate(openapi())


def test_the_asyncapi_document_is_valid() -> None:
    if not SPECS.is_dir():
        pytest.skip("@asyncapi/specs is missing; get it with: npm ci")
    schema = json.loads((SPECS / "3.1.0-without-$id.json").read_text())
    jsonschema.Draft7Validator(schema, registry=Registry()).validate(asyncapi())
    assert DRAFT7


def test_every_row_has_a_status_for_its_codes() -> None:
    rows = public_rows()
    assert {code for row in rows for code in codes_of(row)} == set(STATUS) - {
        "fault_unknown",
        "fault_parameter_invalid",
        "faults_forbidden",
    }
    assert len({row.name for row in rows}) == len(rows)


async def test_the_document_names_every_api_route_that_is_served() -> None:
    from roundtrip.api.public import PublicParts, make_public_app
    from roundtrip.auth.authenticators import CallerIdentification, TrustedAuthenticator
    from roundtrip.auth.service_keys import ServiceKeys
    from roundtrip.faults import Faults
    from roundtrip.outbox.memory import MemoryOutbox
    from tests.support.api import FakeLinks

    app = make_public_app(
        PublicParts(
            links=FakeLinks(),
            outbox=MemoryOutbox(),
            callers=CallerIdentification(TrustedAuthenticator(), ServiceKeys(), trusted=False),
            faults=Faults(allowed=False),
            driver="neonize",
            trusted=False,
        )
    )
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {(method.upper(), path) for path, operations in openapi()["paths"].items() for method in operations}
    page = {("GET", "/"), ("GET", "/static/{path}")}
    assert served - page == documented


EXAMPLES: tuple[Payload, ...] = (
    Qr("2@x", 1, 6, "2026-01-01T00:00:20.000Z"),
    Connected("+4915112345678", "Ada", first=True),
    Banned("banned", False, "Wait.", None),
)


@pytest.mark.parametrize("payload", EXAMPLES)
def test_an_event_on_the_wire_is_as_the_document_says(payload: Payload) -> None:
    key = BotKey("user", "bot")
    type_ = next(type_ for type_, kind in PAYLOADS.items() if kind is type(payload))
    draft = Draft(key, "link", payload, 0, 1, TRACEPARENT)
    raw = body(draft, 7, "01a20570-6de3-7def-9099-8556280f0ef3", "2026-01-01T00:00:00.000Z", key_part(key))
    stored = StoredEvent(key, 7, "id", type_, "link", 0, 1, "", raw)
    packet = event_frame(stored, Mode.REPLAY, 2).payload
    _, event = msgspec.json.decode(packet[packet.index(b"[") :])
    document = asyncapi()
    schema = document["components"]["messages"][type_.wire]["payload"]
    validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    validator.validate(event)
    wrong = {**event, "type": "whatsapp_other"}
    assert not validator.is_valid(wrong)
    assert not validator.is_valid({name: value for name, value in event.items() if name != "seq"})


@pytest.mark.parametrize("make", [openapi, asyncapi])
def test_what_generators_need_is_there(make: Any) -> None:
    document = make()
    text = json.dumps(document)
    assert '"default": null' not in text
    schemas = document["components"]["schemas"]
    for name, schema in schemas.items():
        for field, part in schema.get("properties", {}).items():
            kinds = [part, *part.get("anyOf", ())]
            if re.search(r"(At|^at|^since|^until|^timestamp)$", field):
                assert any(kind.get("format") == "date-time" for kind in kinds), (name, field)
            if field == "id":
                assert part["format"] == "uuid", name
            if field in {"botId", "userId"}:
                assert any("examples" in kind for kind in kinds), (name, field)
            if field == "reasonCode":
                assert part == {"$ref": "#/components/schemas/ReasonCode"}, name
    assert set(schemas["ReasonCode"]["enum"]) == set(ADVICE)
    union = [part["$ref"].rpartition("/")[2] for part in schemas["ConnectionEvent"]["oneOf"]]
    types = [schemas[name]["allOf"][-1]["properties"]["type"]["const"] for name in union]
    assert sorted(types) == schemas["EventType"]["enum"]
    assert document["info"]["version"] != version("roundtrip"), "the contract has a version of its own"


def test_every_event_type_is_a_message() -> None:
    messages = asyncapi()["components"]["messages"]
    for type_ in PUBLIC_TYPES:
        assert messages[type_.wire]["name"] == "whatsapp_connection_event"


async def test_problems_come_with_the_status_that_the_document_says() -> None:
    seen: dict[str, int] = {}
    async with api() as served:
        link = "/api/bots/bot/link"
        for method, path, options in (
            ("GET", link, {"user": None}),
            ("GET", link, {"user": ""}),
            ("GET", "/api/bots//link", {}),
            ("GET", "/api/bots/%20/link", {}),
            ("PUT", link, {"data": b"["}),
            ("PUT", link, {"data": b"[" * 60}),
            ("PUT", link, {"data": b" " * 70_000}),
            ("GET", "/api/bots/bot/events?limit=x", {}),
            ("GET", "/api/events/x", {}),
        ):
            status, data, _ = await served.call(method, path, **options)
            seen[data["code"]] = status
    assert len(seen) == 9
    assert seen == {code: STATUS[code] for code in seen}
    assert True
