"""The phone's half of pairing: it signs the new device's identity, after a scan or after a typed code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.whatsapp.curve import KeyPair
from tests.whatsapp.noise import hkdf
from tests.whatsapp.schema import adv


@dataclass(frozen=True)
class QrText:
    """What the code says: `ref,noise key,identity key,secret`, the last three in base64."""

    ref: str
    noise_key: bytes
    identity: bytes
    secret: bytes

    @classmethod
    def parse(cls, text: str) -> QrText:
        ref, *keys = text.rsplit(",", 3) if text.count(",") == 3 else text.split(",")[:4]
        noise_key, identity, secret = (base64.b64decode(key) for key in keys)
        return cls(ref.removeprefix("https://wa.me/settings/linked_devices#"), noise_key, identity, secret)


def signed_identity(account: KeyPair, device_identity: bytes, secret: bytes) -> bytes:
    """ADVSignedDeviceIdentityHMAC for a device, whose holder knows `secret`."""
    details = adv.ADVDeviceIdentity(rawID=1, timestamp=int(time.time()), keyIndex=1).SerializeToString()
    signed = adv.ADVSignedDeviceIdentity(
        details=details,
        accountSignatureKey=account.public,
        accountSignature=account.sign(b"\x06\x00" + details + device_identity),
    ).SerializeToString()
    proof = hmac.new(secret, signed, hashlib.sha256).digest()
    return bytes(adv.ADVSignedDeviceIdentityHMAC(details=signed, HMAC=proof).SerializeToString())


def _code_cipher(code: str, salt: bytes, nonce: bytes) -> Cipher[modes.CTR]:
    key = hashlib.pbkdf2_hmac("sha256", code.encode(), salt, 2 << 16, 32)
    return Cipher(algorithms.AES(key), modes.CTR(nonce))


class CodePairing:
    """One pairing by a typed code, from the companion's hello to the shared secret."""

    def __init__(self, code: str, wrapped_companion_key: bytes, account: KeyPair) -> None:
        code = code.replace("-", "")
        salt, nonce, sealed = wrapped_companion_key[:32], wrapped_companion_key[32:48], wrapped_companion_key[48:80]
        self._companion_ephemeral = _code_cipher(code, salt, nonce).decryptor().update(sealed)
        self._ephemeral = KeyPair.make()
        self._account = account
        salt, nonce = secrets.token_bytes(32), secrets.token_bytes(16)
        self.wrapped_key = salt + nonce + _code_cipher(code, salt, nonce).encryptor().update(self._ephemeral.public)

    def secret(self, wrapped_bundle: bytes, companion_identity: bytes) -> bytes:
        """What the companion uses as its ADV secret from now on."""
        shared = self._ephemeral.agree(self._companion_ephemeral)
        salt, nonce, sealed = wrapped_bundle[:32], wrapped_bundle[32:44], wrapped_bundle[44:]
        key = hkdf(shared, salt, 32, b"link_code_pairing_key_bundle_encryption_key")
        bundle = AESGCM(key).decrypt(nonce, sealed, None)
        identities = self._account.agree(companion_identity)
        return hkdf(shared + identities + bundle[64:96], None, 32, b"adv_secret")
