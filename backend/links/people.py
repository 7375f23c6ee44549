"""Who the simulated phones belong to, and the codes that they scan."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Final, NamedTuple

_NAMES: Final = ("Ada", "Bela", "Cleo", "Dario", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Luca")
_SURNAMES: Final = ("Arias", "Brandt", "Costa", "Duval", "Ekström", "Fischer", "Haddad", "Iwata", "Kovács", "Okafor")


class Person(NamedTuple):
    """Whose phone it is: the same each time for the same link."""

    phone_number: str
    display_name: str


def person(seed: str) -> Person:
    """A plausible person. The number is from the range that North America keeps for fiction."""
    digest = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()
    area = ("212", "305", "312", "404", "415", "503", "617", "702", "713", "808")[digest[0] % 10]
    name = f"{_NAMES[digest[1] % len(_NAMES)]} {_SURNAMES[digest[2] % len(_SURNAMES)]}"
    return Person(f"+1{area}55501{int.from_bytes(digest[3:5], 'big') % 100:02d}", name)


def qr_text() -> str:
    """A new code, in the shape of a real one: a reference and three keys, comma separated."""

    def key() -> str:
        return base64.b64encode(secrets.token_bytes(32)).decode()

    reference = base64.b64encode(secrets.token_bytes(78)).decode().rstrip("=")
    return f"2@{reference},{key()},{key()},{key()}"


def pairing_code() -> str:
    """A new code for the phone's keyboard, in the shape of a real one."""
    letters = "".join(secrets.choice("123456789ABCDEFGHJKLMNPQRSTVWXYZ") for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"
