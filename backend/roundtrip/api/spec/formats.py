"""What the types alone do not say, added to the generated schemas: formats, value sets, examples, and which fields are
left out rather than null. Tools that generate types from the documents depend on it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

import msgspec

from roundtrip.events import PAYLOADS, PUBLIC_TYPES
from roundtrip.identity import MAX_ID_LENGTH
from roundtrip.links.reasons import ADVICE

API_VERSION: Final = "1.1.0"
"""Of the public contract, apart from the program's: it grows when the contract does."""

REF: Final = "#/components/schemas/{name}"

_TIME: Final = {
    "format": "date-time",
    "description": "RFC 3339, UTC, with milliseconds",
    "examples": ["2026-01-01T12:00:00.000Z"],
}
_ID: Final = {"minLength": 1, "maxLength": MAX_ID_LENGTH}

_STRINGS: Final[dict[str, dict[str, Any]]] = {
    **dict.fromkeys(
        ("at", "since", "until", "timestamp", "createdAt", "expiresAt", "resolvedAt", "receiptAt", "ackAt", "retryAt"),
        _TIME,
    ),
    "id": {"format": "uuid", "description": "A UUIDv7", "examples": ["01a20570-6de3-7def-9099-8556280f0ef3"]},
    "userId": {**_ID, "examples": ["user_2zoIWphpDQ0KgCaUbHNOKm6ZA0u"]},
    "botId": {**_ID, "examples": ["bot-1"]},
    "phoneNumber": {"description": "In international form (E.164)", "examples": ["+447400123456"]},
    "displayName": {"examples": ["Ada Lovelace"]},
    "pairingCode": {"description": "A secret", "examples": ["ABCD-EFGH"]},
    "qr": {"description": "A secret: the text of the QR code"},
    "userAction": {
        "description": "A sentence for the user: what to do",
        "examples": [ADVICE["connection_lost"].user_action, ADVICE["device_removed"].user_action],
    },
    "traceparent": {
        "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "description": "W3C Trace Context",
    },
    "traceId": {"pattern": "^[0-9a-f]{32}$"},
    "traceUrl": {"format": "uri"},
}
"""By the name of a text field, in every schema alike."""

NAMED: Final[dict[str, dict[str, Any]]] = {
    "ReasonCode": {
        "title": "ReasonCode",
        "type": "string",
        "description": "Why a link is not connected. Codes are never renamed; new ones may come.",
        "enum": sorted(ADVICE),
    },
    "EventType": {
        "title": "EventType",
        "type": "string",
        "description": "What happened to the link.",
        "enum": sorted(type_.wire for type_ in PUBLIC_TYPES),
    },
}
"""Schemas of fixed sets that the types have as text."""

_SETS: Final = {"reasonCode": "ReasonCode"}

_TYPED: Final = frozenset({"Envelope", "LedgerEvent", "Timeline"})
"""Schemas whose `type` is an event's; a problem's is a URN."""

_LENIENT: Final = frozenset({"OtlpSpan"})
"""Requests whose texts are not refused for their form: a span that is malformed does not cost the others."""

_EVENTS: Final = "ConnectionEvent"


def schemas_of(kinds: Iterable[type[msgspec.Struct]], inputs: Collection[type[msgspec.Struct]]) -> dict[str, Any]:
    """The schemas of these types and of those within them, by name. `inputs` are read by the backend: they keep their
    defaults and take null. In what it sends a field without a value is left out, or, where the type says that nothing
    is left out, always there."""
    sent = {kind.__name__: kind for kind in kinds if kind not in inputs}
    names = set(msgspec.json.schema_components(list(inputs), ref_template=REF)[1])  # with those within them
    _, components = msgspec.json.schema_components([*sent.values(), *inputs], ref_template=REF)
    for name, schema in components.items():
        if "description" in schema:
            schema["description"] = " ".join(schema["description"].split())
        if "enum" in schema:
            schema.setdefault("type", "string")
        if name in sent and not sent[name].__struct_config__.omit_defaults and schema.get("properties"):
            schema["required"] = list(schema["properties"])
        required = schema.get("required", ())
        for field, part in schema.get("properties", {}).items():
            schema["properties"][field] = _field(name, field, part, optional=field not in required, kept=name in names)
    return components | NAMED


def _field(schema: str, name: str, part: dict[str, Any], *, optional: bool, kept: bool) -> dict[str, Any]:
    part = dict(part)
    if part.get("default", ...) is None or not kept:
        part.pop("default", None)
    kinds = part.get("anyOf")
    if kinds is None:
        return _value(schema, name, part)
    if optional and not kept:
        (kind,) = (kind for kind in kinds if kind != {"type": "null"})
        return _value(schema, name, kind)
    return part | {"anyOf": [kind if kind == {"type": "null"} else _value(schema, name, kind) for kind in kinds]}


def _value(schema: str, name: str, part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "string":
        return part
    if schema in _LENIENT:
        return part
    if name in _SETS:
        return {"$ref": REF.format(name=_SETS[name])}
    if name == "type" and schema in _TYPED:
        return {"$ref": REF.format(name="EventType")}
    return part | _STRINGS.get(name, {})


def event_schemas() -> dict[str, Any]:
    """One named schema per event type, and their union, told apart by `type`."""
    named = {_event_name(type_.name): (type_.wire, PAYLOADS[type_]) for type_ in PUBLIC_TYPES}
    schemas: dict[str, Any] = {
        name: {
            "title": name,
            "allOf": [
                {"$ref": REF.format(name="Envelope")},
                *([{"$ref": REF.format(name=payload.__name__)}] if payload.__struct_fields__ else ()),
                {"type": "object", "properties": {"type": {"const": wire}}, "required": ["type"]},
            ],
        }
        for name, (wire, payload) in named.items()
    }
    schemas[_EVENTS] = {
        "title": _EVENTS,
        "description": "Every event that a frontend gets; `type` tells which it is.",
        "oneOf": [{"$ref": REF.format(name=name)} for name in named],
    }
    return schemas


def event_ref(type_name: str) -> dict[str, Any]:
    """A reference to the schema of an event type, by the name of its member of `EventType`."""
    return {"$ref": REF.format(name=_event_name(type_name))}


def _event_name(type_name: str) -> str:
    return "".join(part.capitalize() for part in type_name.split("_")) + "Event"
