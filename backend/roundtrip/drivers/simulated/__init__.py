"""The simulated driver: scripted phones, for the page, the dashboards and the tests.

Here is what others name: the actions of a phone and the protocol of a driver that has one; besides, the made-up
accounts that the phones have. `driver` plays the phones, `flapper` is the fault that disconnects them again and again.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import secrets
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple, Protocol, runtime_checkable


class SimulateAction(enum.StrEnum):
    """The first seven are the contract's; the rest play the other rows of WhatsApp's table."""  # is in openapi.json

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
    """The connection is lost without a report: for the reconciliation with `Session.alive`."""


@runtime_checkable
class SupportsSimulate(Protocol):
    """A driver whose phones can be made to do something."""

    async def simulate(self, link_id: str, action: SimulateAction) -> bool:
        """Do it; False when it is impossible in the phone's present state, or the link has no session."""


_NAMES: Final = ("Ada", "Bela", "Cleo", "Dario", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Luca")
_SURNAMES: Final = ("Arias", "Brandt", "Costa", "Duval", "Ekström", "Fischer", "Haddad", "Iwata", "Kovács", "Okafor")


class SimulatedAccount(NamedTuple):
    """Whose phone it is. `phone_number` is digits with a leading plus."""

    phone_number: str
    display_name: str


def made_up_account(seed: str) -> SimulatedAccount:
    """A plausible account, the same for the same seed. The number is from the range that North America keeps for
    fiction."""
    digest = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()
    area = ("212", "305", "312", "404", "415", "503", "617", "702", "713", "808")[digest[0] % 10]
    name = f"{_NAMES[digest[1] % len(_NAMES)]} {_SURNAMES[digest[2] % len(_SURNAMES)]}"
    return SimulatedAccount(f"+1{area}55501{int.from_bytes(digest[3:5], 'big') % 100:02d}", name)


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


def read_account(path: Path) -> SimulatedAccount | None:
    """The account in a key file, None when there is none or it cannot be read."""
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
    return None if row is None else SimulatedAccount(str(row[0]), str(row[1]))


def write_account(path: Path, account: SimulatedAccount) -> None:
    """Make a key file, readable by its owner only, or replace the account in it. Raises `OSError`, `sqlite3.Error`."""
    path.touch(mode=0o600)
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute("CREATE TABLE IF NOT EXISTS account (phone_number TEXT NOT NULL, display_name TEXT NOT NULL)")
            db.execute("DELETE FROM account")
            db.execute("INSERT INTO account VALUES (?, ?)", account)
    finally:
        db.close()
