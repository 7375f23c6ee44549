"""A first message from the phone to its new device, sealed as Signal does (X3DH, then one step of the ratchet)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from tests.whatsapp.curve import KeyPair
from tests.whatsapp.nodes import Node
from tests.whatsapp.noise import hkdf

VERSION = b"\x33"


@dataclass(frozen=True)
class Bundle:
    """What a device published so that others can write to it first."""

    identity: bytes
    signed_key_id: int
    signed_key: bytes
    key_id: int
    key: bytes

    @classmethod
    def read(cls, upload: Node) -> Bundle:
        """From the device's own upload, `iq xmlns=encrypt type=set`."""

        def content(*path: str) -> bytes:
            node = upload.child(*path)
            assert node is not None
            assert isinstance(node.content, bytes)
            return node.content

        return cls(
            content("identity"),
            int.from_bytes(content("skey", "id"), "big"),
            content("skey", "value"),
            int.from_bytes(content("list", "key", "id"), "big"),
            content("list", "key", "value"),
        )


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def fields(*values: tuple[int, int | bytes]) -> bytes:
    """Protobuf by hand: neonize's generated code has no Signal messages."""
    out = b""
    for number, value in values:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return out


def with_type(key: bytes) -> bytes:
    """A public key as Signal writes it: with a byte for the kind of curve."""
    return b"\x05" + key


def cbc(key: bytes, iv: bytes, text: bytes) -> bytes:
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padder.update(text) + padder.finalize()) + encryptor.finalize()


def first_message(sender: KeyPair, bundle: Bundle, text: bytes, *, spend_key: bool = True) -> bytes:
    """A `pkmsg`. `text` is a serialized message; WhatsApp's padding is added here.

    `spend_key`: with the one-time key, which works once; without, as a sender does that finds none left.
    """
    base, ratchet = KeyPair.make(), KeyPair.make()
    secret = b"\xff" * 32 + sender.agree(bundle.signed_key) + base.agree(bundle.identity)
    secret += base.agree(bundle.signed_key) + (base.agree(bundle.key) if spend_key else b"")
    root = hkdf(secret, None, 64, b"WhisperText")[:32]
    chain = hkdf(ratchet.agree(bundle.signed_key), root, 64, b"WhisperRatchet")[32:]
    keys = hkdf(hmac.digest(chain, b"\x01", hashlib.sha256), None, 80, b"WhisperMessageKeys")
    padding = secrets.randbelow(15) + 1
    sealed = cbc(keys[:32], keys[64:80], text + bytes([padding]) * padding)
    body = VERSION + fields((1, with_type(ratchet.public)), (2, 0), (3, 0), (4, sealed))
    parties = with_type(sender.public) + with_type(bundle.identity)
    body += hmac.digest(keys[32:64], parties + body, hashlib.sha256)[:8]
    return VERSION + fields(
        (5, 1),
        *([(1, bundle.key_id)] if spend_key else []),
        (6, bundle.signed_key_id),
        (2, with_type(base.public)),
        (3, with_type(sender.public)),
        (4, body),
    )
