"""`roundtrip token`: a token for a developer, signed with a development key that it makes in DATA_DIR.

The key is for one machine: it is refused where another issuer is configured, and with a listener that others can reach.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from roundtrip.auth.authenticators import MAX_LIFETIME
from roundtrip.clock import SYSTEM
from roundtrip.commands.arguments import Parser
from roundtrip.environment import load
from roundtrip.identity import IdentityError, parse_user_id
from roundtrip.origins import is_loopback
from roundtrip.settings import Settings, SettingsError

HOUR: Final = 3600.0


class DevelopmentKey:
    """An Ed25519 key in `DATA_DIR/development`: the private half is readable by its owner only."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "development"
        self.public_path = self._folder / "jwt-public.pem"
        self._private_path = self._folder / "jwt-private.pem"

    def public_pem(self) -> str | None:
        """The public half, None if no key was made. Raises `OSError`."""
        try:
            return self.public_path.read_text().strip()
        except FileNotFoundError:
            return None

    def make(self) -> bool:
        """Make the key if there is none; whether one was made. Raises `OSError`."""
        if self.public_pem() is not None:
            return False
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._private_path.unlink(missing_ok=True)  # of a make that was interrupted
        private = Ed25519PrivateKey.generate()
        descriptor = os.open(self._private_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public_path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return True

    def sign(self, claims: dict[str, Any]) -> str:
        """A token with these claims. Raises `OSError`, or `ValueError` if the file holds no key."""
        key = load_pem_private_key(self._private_path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("not an Ed25519 key")
        return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "development"})


def refuse_development_key(settings: Settings) -> None:
    """Raises `SettingsError` for a server that others can reach and that believes the development key."""
    configured = settings.jwt_public_key
    if configured is None or is_loopback(settings.host):
        return
    try:
        public = DevelopmentKey(settings.data_dir).public_pem()
    except OSError:
        return  # the start says what is wrong with the folder
    if public is not None and _same(configured.get_secret_value(), public):
        raise SettingsError(
            "ROUNDTRIP_JWT_PUBLIC_KEY is the development key, whose private half lies in ROUNDTRIP_DATA_DIR: with it "
            f"ROUNDTRIP_HOST must be a loopback address; it is {settings.host!r}"
        )


def run(arguments: list[str]) -> int:
    """Print a token on standard output and how to use it on standard error. Exit status 0, 1 or 2."""
    parser = Parser("token", "Print a token for development, signed with a key made in ROUNDTRIP_DATA_DIR/development.")
    parser.add_argument("--user", required=True, metavar="ID", type=_user, help="the user whom the token names (`sub`)")
    parser.add_argument(
        "--lifetime",
        metavar="SECONDS",
        type=_lifetime,
        default=HOUR,
        help="seconds until it expires (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    key = DevelopmentKey(
        Path(os.environ.get("ROUNDTRIP_DATA_DIR", "").strip() or Settings.model_fields["data_dir"].default)
    )
    try:
        made = key.make()
        settings = load({"jwt_public_key": key.public_pem()})
        _refuse_outside_development(settings, key.public_pem() or "", options.user)
        token = key.sign(_claims(settings, options.user, options.lifetime))
    except OSError as error:
        return _say(f"the development key cannot be used: {error}", 1)
    except (ValueError, TypeError) as error:
        if isinstance(error, SettingsError):
            return _say(str(error), 2)
        return _say(f"{key.public_path.parent} holds no usable key: remove the folder to have one made", 1)
    if made:
        _say(f"made a development key in {key.public_path.parent}", 0)
    if settings.jwt_public_key is not None and "ROUNDTRIP_JWT_PUBLIC_KEY_FILE" not in os.environ:
        _say(f"start the backend with ROUNDTRIP_JWT_PUBLIC_KEY_FILE={key.public_path} so that it accepts this token", 0)
    print(token)  # noqa: T201  # the output
    return 0


def _refuse_outside_development(settings: Settings, public: str, user: str) -> None:
    if settings.auth == "trusted":
        raise SettingsError(f"ROUNDTRIP_AUTH=trusted takes no token: connect with auth {{userId: {user!r}, botId: …}}")
    if settings.jwks_url is not None:
        raise SettingsError("ROUNDTRIP_JWKS_URL names a token issuer: a development token would not be accepted")
    configured = settings.jwt_public_key
    if configured is None or not _same(configured.get_secret_value(), public):
        raise SettingsError(
            "ROUNDTRIP_JWT_PUBLIC_KEY is another issuer's key: a development token would not be accepted"
        )
    if not is_loopback(settings.host):
        raise SettingsError("ROUNDTRIP_HOST is no loopback address: development tokens are for this machine only")


def _claims(settings: Settings, user: str, lifetime: float) -> dict[str, Any]:
    """What this server asks of a token."""
    now = int(SYSTEM.wall())
    optional = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "azp": next(iter(settings.jwt_authorized_parties), None),
    }
    claims = {"sub": user, "iat": now, "exp": now + int(lifetime), "jti": str(uuid.uuid4())}
    return claims | {name: value for name, value in optional.items() if value is not None}


def _user(text: str) -> str:
    try:
        return parse_user_id(text)
    except IdentityError as error:
        raise argparse.ArgumentTypeError(error.message) from None


def _lifetime(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= MAX_LIFETIME:
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_LIFETIME:.0f} seconds")
    return seconds


def _same(one: str, other: str) -> bool:
    return "".join(one.replace("\\n", "\n").split()) == "".join(other.split())


def _say(line: str, status: int) -> int:
    print(f"roundtrip: {line}", file=sys.stderr)  # noqa: T201  # a command's message
    return status
