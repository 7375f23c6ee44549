"""AsyncAPI 3.1 of the Socket.IO events, from the types that are sent."""

from __future__ import annotations

from typing import Any

import msgspec

from roundtrip.api.spec.formats import API_VERSION, REF, event_ref, event_schemas, schemas_of
from roundtrip.events import CONNECTION_EVENT, PAYLOADS, PUBLIC_TYPES, STATUS_UPDATE, EventType
from roundtrip.links.payloads import Snapshot
from roundtrip.sockets.messages import (
    REFUSALS,
    AuthRenewal,
    Envelope,
    HandshakeAuth,
    Renewed,
    RequestRefused,
    ServingNode,
    TokenExpired,
)


def asyncapi() -> dict[str, Any]:
    """The document."""
    payloads = [PAYLOADS[type_] for type_ in PUBLIC_TYPES]
    kinds: list[type[msgspec.Struct]] = [
        *(kind for kind in payloads if kind.__struct_fields__),
        Snapshot,
        Envelope,
        Renewed,
        RequestRefused,
        ServingNode,
    ]
    schemas = schemas_of([*kinds, TokenExpired], (HandshakeAuth, AuthRenewal)) | event_schemas()
    schemas["ConnectionEvent"]["discriminator"] = "type"
    messages = {type_.wire: _event(type_) for type_ in PUBLIC_TYPES}
    messages |= {
        STATUS_UPDATE: _message(STATUS_UPDATE, "What is true now: at connect, and on request", _ref("Snapshot")),
        "request_refused": _message(
            "request_refused", "A request came too soon after too many others", _ref("RequestRefused")
        ),
        "auth_expired": _message("auth_expired", "The token ran out: renew it, or be closed", _ref("TokenExpired")),
        "status": _message("status", "Ask for the snapshot", {"type": "null"}),
        "auth": _message("auth", "Renew the token without reconnecting", _ref("AuthRenewal"), _ref("Renewed")),
        "node": _message("node", "Ask which node of a shared store this is", {"type": "null"}, _ref("ServingNode")),
    }
    sent = [type_.wire for type_ in PUBLIC_TYPES] + [STATUS_UPDATE, "auth_expired", "request_refused"]
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": "Roundtrip events",
            "version": API_VERSION,
            "description": (
                "Socket.IO v4 (Engine.IO 4) at path /socket.io/, namespace /. Delivery is at least once, in `seq` "
                "order per user and bot: drop an `id` that was seen. Commands go over HTTP: see openapi.json."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "links", "description": "What happens to a linked WhatsApp account"}],
        },
        "defaultContentType": "application/json",
        "servers": {
            "backend": {
                "host": "localhost:8080",
                "pathname": "/socket.io/",
                "protocol": "socket.io",
                "protocolVersion": "5",
                "description": "Handshake: the `auth` object is HandshakeAuth. A refusal is `connect_error`.",
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            }
        },
        "channels": {
            "root": {
                "address": "/",
                "title": "Default namespace",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "x-handshake": _ref("HandshakeAuth"),
                "x-refusals": REFUSALS,
            }
        },
        "operations": {
            "deliver": {
                "action": "send",
                "channel": {"$ref": "#/channels/root"},
                "summary": "What the backend sends; events ask for an ack",
                "messages": [{"$ref": f"#/channels/root/messages/{name}"} for name in sent],
            },
            "ask": {
                "action": "receive",
                "channel": {"$ref": "#/channels/root"},
                "summary": "What a client may send",
                "messages": [{"$ref": f"#/channels/root/messages/{name}"} for name in ("status", "auth", "node")],
            },
        },
        "components": {
            "messages": messages,
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A user's token, as `token` of the handshake's `auth` object",
                }
            },
        },
    }


def _event(type_: EventType) -> dict[str, Any]:
    text = (PAYLOADS[type_].__doc__ or "").split("\n")[0]
    return _message(CONNECTION_EVENT, text, event_ref(type_.name)) | {
        "title": type_.wire,
        "tags": [{"name": "links"}],
        "x-ack": {"type": "null", "description": "Call it once the event was handled"},
    }


def _message(name: str, summary: str, payload: dict[str, Any], ack: dict[str, Any] | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"name": name, "contentType": "application/json", "payload": payload}
    if summary:
        message["summary"] = summary
    if ack is not None:
        message["x-ack"] = ack
    return message


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REF.format(name=name)}
