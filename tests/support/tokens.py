"""Token issuers for tests: keys made once, tokens as Clerk makes them, and a JWKS address that can fail."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://clerk.example.test"
USER = "user_2zoIWphpDQ0KgCaUbHNOKm6ZA0u"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private_key(algorithm: str, which: int = 0) -> PrivateKey:
    """One key per algorithm and number, made once a process."""
    assert which >= 0
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(key: PrivateKey, kid: str | None, **more: Any) -> dict[str, Any]:
    """A public key as a JWKS entry."""
    public = key.public_key()
    fields: dict[str, Any] = {"use": "sig", **more}
    if kid is not None:
        fields["kid"] = kid
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "alg": "RS256", "n": _number(numbers.n), "e": _number(numbers.e), **fields}
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32), **fields}
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": _base64(raw), **fields}


def jwks(*entries: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"keys": list(entries)})


def token(
    key: PrivateKey | str | bytes | None = None,
    *,
    algorithm: str = "RS256",
    kid: str | None = "k0",
    headers: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    """A valid token of `USER` for a minute; a claim given as None is left out."""
    now = int(time.time())
    body = {
        "sub": USER,
        "iss": ISSUER,
        "azp": "https://app.example.test",
        "sid": "sess_1",
        "iat": now,
        "nbf": now - 10,
        "exp": now + 60,
        **claims,
    }
    named = {} if kid is None else {"kid": kid}
    signing: Any = private_key(algorithm) if key is None else key
    return jwt.encode(
        {name: value for name, value in body.items() if value is not None},
        signing,
        algorithm=algorithm,
        headers={**named, **(headers or {})},
    )


def handmade(**claims: Any) -> str:
    """A well signed RS256 token with claims that a library would not write."""
    return _signed({"alg": "RS256", "typ": "JWT", "kid": "k0"}, claims, _sign)


def confused(secret: bytes) -> str:
    """Signed with HMAC over a public key, which a library would not do."""
    return _signed({"alg": "HS256", "typ": "JWT", "kid": "k0"}, {}, lambda text: hmac.digest(secret, text, "sha256"))


def unsigned(**claims: Any) -> str:
    """`alg: none`, made by hand."""
    return _signed({"alg": "none", "typ": "JWT", "kid": "k0"}, claims, lambda _text: b"")


def _signed(head: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    now = int(time.time())
    body = {"sub": USER, "iss": ISSUER, "iat": now, "exp": now + 60, **claims}
    body = {name: value for name, value in body.items() if value is not None}
    # Python's own writer: it writes numbers of any size, and those that are none
    text = f"{_base64(json.dumps(head).encode())}.{_base64(json.dumps(body).encode())}"
    return f"{text}.{_base64(sign(text.encode()))}"


def _sign(text: bytes) -> bytes:
    key = private_key("RS256")
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.sign(text, PKCS1v15(), SHA256())


def _number(value: int, length: int | None = None) -> str:
    return _base64(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
