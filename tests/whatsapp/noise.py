"""The answering side of Noise_XX_25519_AESGCM_SHA256, as WhatsApp frames it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tests.whatsapp.curve import KeyPair
from tests.whatsapp.schema import cert, wa6

PATTERN = b"Noise_XX_25519_AESGCM_SHA256\0\0\0\0"


def hkdf(secret: bytes, salt: bytes | None, length: int, info: bytes = b"") -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)


class Cipher:
    """AES-GCM under one key with a counter for its nonce."""

    def __init__(self, key: bytes) -> None:
        self._gcm = AESGCM(key)
        self._count = 0

    def _nonce(self) -> bytes:
        nonce = bytes(8) + self._count.to_bytes(4, "big")
        self._count += 1
        return nonce

    def seal(self, text: bytes, authenticated: bytes | None = None) -> bytes:
        return self._gcm.encrypt(self._nonce(), text, authenticated)

    def open(self, sealed: bytes, authenticated: bytes | None = None) -> bytes:
        return self._gcm.decrypt(self._nonce(), sealed, authenticated)


@dataclass
class Authority:
    """The key whose public half the library pins, and a certificate chain under it."""

    root: KeyPair = field(default_factory=KeyPair.make)
    static: KeyPair = field(default_factory=KeyPair.make)

    def chain(self) -> bytes:
        intermediate = KeyPair.make()
        now = int(time.time())
        details = cert.CertChain.NoiseCertificate.Details
        life = {"notBefore": now - 3600, "notAfter": now + 86400}
        middle = details(serial=1, issuerSerial=0, key=intermediate.public, **life).SerializeToString()
        leaf = details(serial=2, issuerSerial=1, key=self.static.public, **life).SerializeToString()
        signed = cert.CertChain.NoiseCertificate
        return bytes(
            cert.CertChain(
                intermediate=signed(details=middle, signature=self.root.sign(middle)),
                leaf=signed(details=leaf, signature=intermediate.sign(leaf)),
            ).SerializeToString()
        )


class Handshake:
    """Three messages: `hello` in, `answer` out, `finish` in; then `ciphers`."""

    def __init__(self, authority: Authority, chain: bytes, prologue: bytes) -> None:
        self._static = authority.static
        self._chain = chain
        self._ephemeral = KeyPair.make()
        self._hash = PATTERN
        self._salt = PATTERN
        self._cipher = Cipher(PATTERN)
        self._mix_hash(prologue)

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _mix_key(self, secret: bytes) -> None:
        material = hkdf(secret, self._salt, 64)
        self._salt = material[:32]
        self._cipher = Cipher(material[32:])

    def _seal(self, text: bytes) -> bytes:
        sealed = self._cipher.seal(text, self._hash)
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        text = self._cipher.open(sealed, self._hash)
        self._mix_hash(sealed)
        return text

    def answer(self, frame: bytes) -> bytes:
        hello = wa6.HandshakeMessage.FromString(frame).clientHello
        self._mix_hash(hello.ephemeral)
        self._mix_hash(self._ephemeral.public)
        self._mix_key(self._ephemeral.agree(hello.ephemeral))
        static = self._seal(self._static.public)
        self._mix_key(self._static.agree(hello.ephemeral))
        server_hello = wa6.HandshakeMessage.ServerHello(
            ephemeral=self._ephemeral.public, static=static, payload=self._seal(self._chain)
        )
        return bytes(wa6.HandshakeMessage(serverHello=server_hello).SerializeToString())

    def finish(self, frame: bytes) -> tuple[bytes, bytes]:
        """The client's static public key and its payload."""
        message = wa6.HandshakeMessage.FromString(frame).clientFinish
        static = self._open(message.static)
        self._mix_key(self._ephemeral.agree(static))
        return static, self._open(message.payload)

    def ciphers(self) -> tuple[Cipher, Cipher]:
        """(from the client, to the client)."""
        material = hkdf(b"", self._salt, 64)
        return Cipher(material[:32]), Cipher(material[32:])
