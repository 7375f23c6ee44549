"""Group chats: what people write in them, sealed with sender keys as Signal does, for a device that reads along.

The first message in a group carries its sender's key, sealed for the device; each one moves the key on by one step. All
of it is real: the library opens, checks and stores every message.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.whatsapp.curve import KeyPair, P
from tests.whatsapp.nodes import Jid, Node
from tests.whatsapp.noise import hkdf
from tests.whatsapp.schema import e2e
from tests.whatsapp.sealed import VERSION, Bundle, cbc, fields, first_message, with_type


class SigningKey:
    """An Ed25519 key as Signal names it, by its Montgomery form: what `curve.KeyPair` does, 100 times faster."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        edwards = int.from_bytes(self._key.public_key().public_bytes_raw(), "little")
        y, self._sign = edwards & (2**255 - 1), edwards >> 255
        self.public = ((1 + y) * pow(1 - y, P - 2, P) % P).to_bytes(32, "little")

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the top bit carries the Edwards key's sign."""
        signature = bytearray(self._key.sign(message))
        signature[63] |= self._sign << 7
        return bytes(signature)


class Group:
    """A group chat in which one person writes. `known`: its device has the sender's key; without, it cannot read."""

    def __init__(self, number: int, *, known: bool = True) -> None:
        self.chat = Jid(f"1203630{number:08}", "g.us")
        self.sender = Jid(f"8800{number:08}", "lid")
        self._phone = Jid(f"49151{number:08}")
        self._known = known
        self._identity = KeyPair.make()
        self._signing = SigningKey()
        self._key_id = secrets.randbelow(2**31)
        self._chain = secrets.token_bytes(32)
        self._iteration = 0

    def messages(self, bundle: Bundle) -> Iterator[Node]:
        """What the person writes, for ever, as the server passes it on to the device of that bundle."""
        key = [Node("enc", {"v": "2", "type": "pkmsg"}, self._key_for(bundle))] if self._known else []
        while True:
            yield self._message([*key, Node("enc", {"v": "2", "type": "skmsg"}, self._seal())])
            key = []

    def large(self, size: int) -> Node:
        """A message of so many bytes that nobody can open."""
        return self._message([Node("enc", {"v": "2", "type": "skmsg"}, bytes(size))])

    def _message(self, content: list[Node]) -> Node:
        attrs: dict[str, str | Jid] = {
            "from": self.chat,
            "participant": self.sender,
            "participant_pn": self._phone,
            "addressing_mode": "lid",
            "type": "text",
            "id": secrets.token_hex(10).upper(),
            "t": str(int(time.time())),
            "notify": f"Person {self._phone.user}",
        }
        return Node("message", attrs, content)

    def _key_for(self, bundle: Bundle) -> bytes:
        body = fields((1, self._key_id), (2, self._iteration), (3, self._chain), (4, with_type(self._signing.public)))
        share = e2e.SenderKeyDistributionMessage(
            groupID=str(self.chat), axolotlSenderKeyDistributionMessage=VERSION + body
        )
        text = e2e.Message(senderKeyDistributionMessage=share).SerializeToString()
        return first_message(self._identity, bundle, bytes(text), spend_key=False)

    def _seal(self) -> bytes:
        message = e2e.Message(conversation=secrets.token_urlsafe(60))
        message.messageContextInfo.messageSecret = secrets.token_bytes(32)
        seed = hmac.digest(self._chain, b"\x01", hashlib.sha256)
        keys = hkdf(seed, None, 48, b"WhisperGroup")
        padding = secrets.randbelow(15) + 1
        sealed = cbc(keys[16:], keys[:16], message.SerializeToString() + bytes([padding]) * padding)
        body = VERSION + fields((1, self._key_id), (2, self._iteration), (3, sealed))
        self._chain = hmac.digest(self._chain, b"\x02", hashlib.sha256)
        self._iteration += 1
        return body + self._signing.sign(body)
