"""Curve25519 as Signal uses it: X25519 keys that also sign (XEdDSA), in plain Python. For tests: not constant-time."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
Point = tuple[int, int, int, int]
BASE: Point = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def _add(one: Point, two: Point) -> Point:
    a = (one[1] - one[0]) * (two[1] - two[0]) % P
    b = (one[1] + one[0]) * (two[1] + two[0]) % P
    c = 2 * one[3] * two[3] * D % P
    d = 2 * one[2] * two[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            total = _add(total, point)
        point = _add(point, point)
        scalar >>= 1
    return total


def _pack(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | ((x & 1) << 255)).to_bytes(32, "little")


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key pair, raw bytes."""

    private: bytes
    public: bytes

    @classmethod
    def make(cls) -> KeyPair:
        private = X25519PrivateKey.generate()
        return cls(private.private_bytes_raw(), private.public_key().public_bytes_raw())

    def agree(self, public: bytes) -> bytes:
        """The shared secret with the holder of `public`."""
        return X25519PrivateKey.from_private_bytes(self.private).exchange(X25519PublicKey.from_public_bytes(public))

    def sign(self, message: bytes) -> bytes:
        """64 bytes that libsignal's curve signature check accepts; the top bit carries the Edwards key's sign."""
        clamped = bytearray(self.private)
        clamped[0] &= 248
        clamped[31] = (clamped[31] & 127) | 64
        scalar = int.from_bytes(clamped, "little")
        edwards = _pack(_times(scalar, BASE))
        nonce = int.from_bytes(hashlib.sha512(self.private + message + secrets.token_bytes(64)).digest(), "little")
        commitment = _pack(_times(nonce % ORDER, BASE))
        challenge = int.from_bytes(hashlib.sha512(commitment + edwards + message).digest(), "little") % ORDER
        answer = (nonce + challenge * scalar) % ORDER
        signature = bytearray(commitment + answer.to_bytes(32, "little"))
        signature[63] |= edwards[31] & 128
        return bytes(signature)
