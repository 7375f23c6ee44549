"""`make stack`, `make stack-small`, `make stack-scale`: make the secrets, start docker compose, wait until all is
healthy, and say where to look."""

from __future__ import annotations

import argparse
import secrets
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import jwt
import yaml
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
"""Not in the repository: made once, and kept: tokens and hashes outlive a restart. The compose files name them."""

FULL: Final = "docker-compose.yml"
SMALL: Final = "docker-compose.small.yml"
SCALE: Final = "docker-compose.scale.yml"

ISSUER: Final = "roundtrip-stack"
DAY: Final = 86_400


def make_secrets(folder: Path = KEYS) -> None:
    """Make the secrets that are missing.

    A container sees the host's modes, and its user is another one: the files are readable by all, in a folder that
    only its owner enters. Whatever the umask was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    public = signing_key(folder).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    _write(folder / "jwt_public_key.pem", public)
    for name in ("admin_key", "pii_hash_key", "postgres_password"):
        path = folder / name
        _write(path, path.read_text() if path.is_file() else secrets.token_urlsafe(32))
    password = (folder / "postgres_password").read_text()
    _write(folder / "store", f"postgresql://roundtrip:{password}@postgres/roundtrip")


class _Loader(yaml.SafeLoader):
    """Reads compose's own tags (`!reset`, `!override`), which say how files are merged, as if they were not there."""


def _untagged(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return None


_Loader.add_multi_constructor("!", _untagged)


def read(compose: Path) -> Any:
    """A compose file as it stands: nothing is merged or filled in."""
    return yaml.load(compose.read_text(), _Loader)  # noqa: S506  # a SafeLoader


def open_mounted(compose: Path) -> None:
    """Let every user read the files and folders of this checkout that containers mount, as git does not keep modes."""
    for service in read(compose)["services"].values():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                mounted = compose.parent / volume.split(":")[0]
                for path in (mounted, *mounted.rglob("*")):
                    path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o555 if path.is_dir() else 0o444))


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


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(0o644)


ADDRESSES: Final = {
    FULL: """\
Page          http://127.0.0.1:8080   token of user "ada" below
Dashboards    http://127.0.0.1:3000/d/roundtrip-socket-mapping
Alerts        http://127.0.0.1:9093   docker compose logs -f alert-sink
Prometheus    http://127.0.0.1:9090
Admin         http://127.0.0.1:9464/debug/sockets   password in .cache/stack/admin_key
Break it      curl -X PUT -H "Authorization: Bearer $(cat .cache/stack/admin_key)" \\
                http://127.0.0.1:9464/debug/faults/key_mismatch
Stop it       docker compose down     (with --volumes: forget everything)
""",
    SMALL: """\
Page          http://127.0.0.1:8080   token of user "ada" below
Dashboards    http://127.0.0.1:3000/d/roundtrip-socket-mapping
Prometheus    http://127.0.0.1:9090/alerts
Admin         http://127.0.0.1:9464/debug/sockets   password in .cache/stack/admin_key
Stop it       docker compose -f docker-compose.small.yml down     (with --volumes: forget everything)
""",
    SCALE: """\
Page          http://127.0.0.1:8080   token of user "ada" below; it names the node that it is on
Dashboards    http://127.0.0.1:3000/d/roundtrip-backend   row "Cluster"
Alerts        http://127.0.0.1:9093   docker compose -f docker-compose.scale.yml logs -f alert-sink
Prometheus    http://127.0.0.1:9090
Admin         http://127.0.0.1:9464 (node-1), http://127.0.0.1:9465 (node-2), http://127.0.0.1:9466 (node-3)
              password in .cache/stack/admin_key
Lose a node   docker compose -f docker-compose.scale.yml kill node-2     (it stays away; `up -d node-2` brings it back)
Stop it       docker compose -f docker-compose.scale.yml down     (with --volumes: forget everything)
""",
}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: docker compose's own, 127 where there is none."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.stack", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--small", action="store_const", dest="file", const=SMALL, help="one container that observes")
    which.add_argument("--scale", action="store_const", dest="file", const=SCALE, help="three nodes on a PostgreSQL")
    parser.set_defaults(file=FULL)
    file = parser.parse_args(arguments).file
    docker = shutil.which("docker")
    if docker is None:
        sys.stderr.write("docker is missing; get it from https://docs.docker.com/engine/install/\n")
        return 127
    make_secrets(KEYS)
    for one in {FULL, file}:  # the others extend services of the full one
        open_mounted(ROOT / one)
    chosen = [] if file == FULL else ["--file", file]
    done = subprocess.run(  # noqa: S603  # found above, fixed arguments
        [docker, "compose", *chosen, "up", "--detach", "--build", "--wait", "--wait-timeout", "300"],
        cwd=ROOT,
        check=False,
    )
    if done.returncode == 0:
        sys.stdout.write(f"{ADDRESSES[file]}\n{token('ada', KEYS)}\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
