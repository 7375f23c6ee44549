"""The phones of the stand-in, and the connections of their devices."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from tests.whatsapp.channel import Channel
from tests.whatsapp.curve import KeyPair
from tests.whatsapp.history import Past
from tests.whatsapp.name_sync import NameSync
from tests.whatsapp.nodes import Jid, Node
from tests.whatsapp.phone import CodePairing
from tests.whatsapp.schema import wa6
from tests.whatsapp.sealed import Bundle


@dataclass
class Account:
    """A phone with WhatsApp on it, and the one device that is linked to it."""

    phone: str
    name: str
    business: bool = False
    """A business' name comes with the pairing; a person's is synchronised after the first login."""
    key: KeyPair = field(default_factory=KeyPair.make)
    device: int = 0
    device_key: bytes = b""
    """The linked device's Noise key; empty when none is linked."""
    refusal: dict[str, str] | None = None
    """Attributes of the `failure` that meets every login, until it is None again."""
    silent: bool = False
    """Answers nothing, though the connection stands."""
    iq_delay: dict[str, float] = field(default_factory=dict)
    """Seconds until an iq of that namespace is answered."""
    iq_errors: dict[str, str] = field(default_factory=dict)
    """The error code that meets an iq of that namespace."""
    bundle: Bundle | None = None
    """What the linked device published so that others can write to it."""
    past: Past | None = None
    """What the phone hands over after a pairing, besides the name."""
    sync: NameSync = field(default_factory=NameSync)
    received: Counter[str] = field(default_factory=Counter)
    """What the linked device has sent, by tag: a `receipt` for each message that it has read."""
    logins: int = 0
    replaced: int = 0
    """Logins that found the same device connected, and threw it out."""
    lines: int = 0
    """Connections that got as far as naming this account, let in or not."""
    refused_at: list[float] = field(default_factory=list)
    """Moments, monotonic, at which a login was met with `refusal`."""
    line: Line | None = None

    @property
    def jid(self) -> Jid:
        return Jid(self.phone, device=self.device)


class Line:
    """One client that got through the handshake."""

    def __init__(self, channel: Channel, payload: bytes) -> None:
        self.channel = channel
        self.payload = wa6.ClientPayload.FromString(payload)
        self.account: Account | None = None
        self.registering = not self.payload.HasField("username")
        self.hello: Node | None = None
        """The companion's request for pairing by code."""
        self.ref = b""
        self.code: CodePairing | None = None
        self.signed = asyncio.Event()
        """Set once the client accepted its new identity."""

    @property
    def identity(self) -> bytes:
        return bytes(self.payload.devicePairingData.eIdent)
