"""`make stack`: makes the keys, starts docker compose, waits until all is healthy, and says where to look."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

ROOT: Final = Path(__file__).parents[1]
KEYS: Final = ROOT / ".cache" / "stack"
"""Not in the repository: made once, and kept so that tokens and hashes outlive a restart."""

ISSUER: Final = "roundtrip-stack"
DAY: Final = 86_400


def environment(folder: Path = KEYS) -> dict[str, str]:
    """What docker-compose.yml asks for; secrets are made where they are missing."""
    public = signing_key(folder).public_key()
    return {
        "ROUNDTRIP_JWT_PUBLIC_KEY": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "ROUNDTRIP_ADMIN_KEY": _secret(folder / "admin_key"),
        "ROUNDTRIP_PII_HASH_KEY": _secret(folder / "pii_hash_key"),
    }


def signing_key(folder: Path = KEYS) -> EllipticCurvePrivateKey:
    """The key that signs this stack's tokens."""
    path = folder / "signing_key.pem"
    if not path.is_file():
        made = generate_private_key(SECP256R1())
        _write(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)  # noqa: S101  # this module wrote it
    return key


def token(user_id: str, folder: Path = KEYS) -> str:
    """A token for the page, good for a day."""
    claims = {"sub": user_id, "iss": ISSUER, "exp": int(time.time()) + DAY}
    return jwt.encode(claims, signing_key(folder), algorithm="ES256")


def _secret(path: Path) -> str:
    if not path.is_file():
        _write(path, secrets.token_urlsafe(32))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Readable by the containers' users: the folder is closed to others
    path.touch(mode=0o644)
    path.write_text(text)


ADDRESSES: Final = """\
Page          http://127.0.0.1:8080   token of user "ada" below
Dashboards    http://127.0.0.1:3000/d/roundtrip-socket-mapping
Alerts        http://127.0.0.1:9093   docker compose logs -f alert-sink
Prometheus    http://127.0.0.1:9090
Admin         http://127.0.0.1:9464/debug/sockets   password in .cache/stack/admin_key
Break it      curl -X PUT -H "Authorization: Bearer $(cat .cache/stack/admin_key)" \\
                http://127.0.0.1:9464/debug/faults/key_mismatch
Stop it       docker compose down     (with --volumes: forget everything)
"""


def main() -> int:
    """Exit status: docker compose's own, 127 where there is none."""
    docker = shutil.which("docker")
    if docker is None:
        sys.stderr.write("docker is missing; get it from https://docs.docker.com/engine/install/\n")
        return 127
    env = os.environ | environment()
    done = subprocess.run(  # noqa: S603  # found above, fixed arguments
        [docker, "compose", "up", "--detach", "--build", "--wait", "--wait-timeout", "300"],
        cwd=ROOT,
        env=env,
        check=False,
    )
    if done.returncode == 0:
        sys.stdout.write(f"{ADDRESSES}\n{token('ada')}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
