"""OpenAPI 3.1 of the public HTTP API, from the routes that serve it; and what writes it and its sibling, AsyncAPI.

`python -m roundtrip.api.spec.openapi` writes both to docs/; a test fails when they are out of date.
"""

from __future__ import annotations

import http
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from roundtrip.api.bots import Links
from roundtrip.api.problems import CONTENT_TYPE, STATUS, ProblemDocument
from roundtrip.api.public import PublicParts, public_routes
from roundtrip.api.routes import NoInput, Route
from roundtrip.api.spec.asyncapi import asyncapi
from roundtrip.api.spec.formats import API_VERSION, REF, event_schemas, schemas_of
from roundtrip.auth.authenticators import CallerIdentification, TrustedAuthenticator
from roundtrip.auth.service_keys import Scope, ServiceKeys
from roundtrip.events import PAYLOADS, PUBLIC_TYPES
from roundtrip.faults import Faults
from roundtrip.identity import MAX_ID_LENGTH
from roundtrip.outbox.base import Outbox
from roundtrip.sockets.messages import Envelope

DOCS: Final = Path(__file__).resolve().parents[4] / "docs"

_CALLER_PROBLEMS: Final = ("unauthorized", "forbidden", "unavailable", "user_id_invalid")
_BODY_PROBLEMS: Final = ("body_invalid", "body_too_large", "json_too_deep", "slow_request")
_BOT_PROBLEMS: Final = ("bot_id_missing", "bot_id_invalid")

_PARAMETERS: Final = {
    "bot_id": {
        "description": "The bot's id, the caller's own choice",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "examples": ["bot-1"]},
    },
    "event_id": {"description": "The event's id, a UUID", "schema": {"type": "string", "format": "uuid"}},
}


def public_rows() -> tuple[Route, ...]:
    """The routes of the public API as served with `jwt`; their handlers are never called."""
    callers = CallerIdentification(TrustedAuthenticator(), ServiceKeys(), trusted=False)
    return public_routes(
        PublicParts(
            links=cast("Links", None),
            outbox=cast("Outbox", None),
            callers=callers,
            faults=Faults(allowed=False),
            driver="neonize",
            trusted=False,
        )
    )


def openapi(rows: Sequence[Route] | None = None) -> dict[str, Any]:
    """The document."""
    rows = public_rows() if rows is None else rows
    kinds: set[type[msgspec.Struct]] = {kind for row in rows for kind in (row.response, row.body, row.query)}
    kinds |= {Envelope, *(PAYLOADS[type_] for type_ in PUBLIC_TYPES if PAYLOADS[type_].__struct_fields__)}
    types = sorted((kinds | {ProblemDocument}) - {NoInput}, key=lambda kind: kind.__name__)
    inputs = {kind for row in rows for kind in (row.body, row.query)} - {NoInput}
    components = schemas_of(types, inputs) | _events()
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        paths[row.path][row.method.lower()] = _operation(row, components)
    for kind in types:
        if any(row.query is kind for row in rows):
            del components[kind.__name__]  # listed as parameters
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Roundtrip",
            "version": API_VERSION,
            "description": (
                "Links WhatsApp accounts and proves that the frontend got every event. Events arrive over Socket.IO: "
                "see asyncapi.json. Errors are problem documents (RFC 9457) with a `code` for programs."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This backend"}],
        "tags": [
            {"name": "links", "description": "Link a WhatsApp account, read its state, log out"},
            {"name": "events", "description": "What became of each event"},
            {"name": "backend", "description": "The process itself"},
        ],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "A user's token"},
                "serviceKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Api-Key",
                    "description": "A service caller's key; the user it acts for is named in X-User-Id",
                },
                "trusted": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-User-Id",
                    "description": "AUTH=trusted on loopback only: the user, believed as given",
                },
            },
        },
    }


def _events() -> dict[str, Any]:
    """The events' schemas, which HTTP does not send: so that one document gives a generator every type."""
    schemas = event_schemas()
    mapping = {
        schemas[part["$ref"].rpartition("/")[2]]["allOf"][-1]["properties"]["type"]["const"]: part["$ref"]
        for part in schemas["ConnectionEvent"]["oneOf"]
    }
    schemas["ConnectionEvent"]["discriminator"] = {"propertyName": "type", "mapping": mapping}
    return schemas


def codes_of(row: Route) -> tuple[str, ...]:
    """Every problem code that a route may respond with."""
    return (
        "internal_error",
        *(_CALLER_PROBLEMS if row.scope else ()),
        *(_BODY_PROBLEMS if row.body is not NoInput else ()),
        *(_BOT_PROBLEMS if "{bot_id}" in row.path else ()),
        *row.problems,
    )


def _operation(row: Route, components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": row.name,
        "summary": row.summary,
        "tags": [_tag(row)],
        "parameters": [*_path_parameters(row.path), *_query_parameters(row, components)],
        "responses": {
            str(row.status): {
                "description": http.HTTPStatus(row.status).phrase,
                "content": {"application/json": {"schema": {"$ref": REF.format(name=row.response.__name__)}}},
            },
            **_problems(codes_of(row)),
        },
        "security": [{"token": []}, {"serviceKey": [], "trusted": []}, {"trusted": []}] if row.scope else [],
    }
    if row.scope:
        operation["x-scope"] = row.scope.value
    if row.body is not NoInput:
        schema = components[row.body.__name__]
        operation["requestBody"] = {
            "required": bool(schema.get("required")),
            "content": {"application/json": {"schema": {"$ref": REF.format(name=row.body.__name__)}}},
        }
    return operation


def _tag(row: Route) -> str:
    if row.scope is None:
        return "backend"
    return "events" if row.scope in {Scope.EVENTS_READ, Scope.TRACES_WRITE} else "links"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **_PARAMETERS[name]} for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(row: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    if row.query is NoInput:
        return []
    schema = components[row.query.__name__]
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": part}
        for name, part in schema["properties"].items()
    ]


def _problems(codes: Iterable[str]) -> dict[str, Any]:
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in sorted(set(codes)):
        by_status[STATUS[code]].append(code)
    return {str(status): _problem(status, codes) for status, codes in sorted(by_status.items())}


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": ", ".join(codes),
        "content": {
            CONTENT_TYPE: {
                "schema": {
                    "allOf": [{"$ref": REF.format(name="ProblemDocument")}],
                    "properties": {"code": {"enum": codes}, "status": {"const": status}},
                }
            }
        },
    }
    if status in {429, 503}:
        response["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    return response


def documents() -> dict[str, bytes]:
    """Both documents by file name."""
    return {"openapi.json": _json(openapi()), "asyncapi.json": _json(asyncapi())}


def _json(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def main(folder: Path = DOCS) -> int:
    folder.mkdir(exist_ok=True)
    for name, content in documents().items():
        (folder / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
