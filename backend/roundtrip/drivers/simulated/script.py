"""What the simulated phone can be asked to do."""

from __future__ import annotations

import base64
import enum
import hashlib
import secrets
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable


class SimulateAction(enum.StrEnum):
    """The first seven are the contract's; the rest play the other rows of WhatsApp's table."""

    SCAN = "scan"
    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    LOGOUT = "logout"
    REPLACE = "replace"
    BAN = "ban"
    EXPIRE = "expire"
    DEGRADE = "degrade"
    RESTORE = "restore"
    OUTDATED = "outdated"
    CRASH = "crash"
    HANG = "hang"
    UNREACHABLE = "unreachable"
    CONNECT_FAILURE = "connect_failure"
    STREAM_ERROR = "stream_error"
    FLAP = "flap"
    DIE_SILENTLY = "die_silently"
    """The connection is gone and nobody says so: what the comparison with the truth is for."""


@runtime_checkable
class PlaysPhone(Protocol):
    """A driver with a phone that obeys."""

    async def simulate(self, link_id: str, action: SimulateAction) -> bool:
        """Have the phone do it; False when it cannot in its present state, or the link has no session."""


_NAMES: Final = ("Ada", "Bela", "Cleo", "Dario", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Luca")
_SURNAMES: Final = ("Arias", "Brandt", "Costa", "Duval", "Ekström", "Fischer", "Haddad", "Iwata", "Kovács", "Okafor")


class SimulatedPerson(NamedTuple):
    """Whose phone it is: the same each time for the same link."""

    phone_number: str
    display_name: str


def person_of(seed: str) -> SimulatedPerson:
    """A plausible person_of. The number is from the range that North America keeps for fiction."""
    digest = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()
    area = ("212", "305", "312", "404", "415", "503", "617", "702", "713", "808")[digest[0] % 10]
    name = f"{_NAMES[digest[1] % len(_NAMES)]} {_SURNAMES[digest[2] % len(_SURNAMES)]}"
    return SimulatedPerson(f"+1{area}55501{int.from_bytes(digest[3:5], 'big') % 100:02d}", name)


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


def read(path: Path) -> SimulatedPerson | None:
    """Whose account is in the file, None when it was not paired or cannot be read."""
    if not path.is_file():
        return None
    try:
        db = sqlite3.connect(path)
        try:
            row = db.execute("SELECT phone_number, display_name FROM account").fetchone()
        finally:
            db.close()
    except sqlite3.Error:
        return None
    return None if row is None else SimulatedPerson(str(row[0]), str(row[1]))


def write(path: Path, person_of: SimulatedPerson) -> None:
    """Keep an account. The file is readable by its owner only."""
    path.touch(mode=0o600)
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute("CREATE TABLE IF NOT EXISTS account (phone_number TEXT NOT NULL, display_name TEXT NOT NULL)")
            db.execute("DELETE FROM account")
            db.execute("INSERT INTO account VALUES (?, ?)", person_of)
    finally:
        db.close()
