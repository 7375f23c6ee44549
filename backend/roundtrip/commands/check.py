"""`roundtrip check`: tries what a start needs, and says what is wrong and which setting changes it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from roundtrip.api.libraries import library
from roundtrip.api.listener import explain
from roundtrip.api.page import VENDOR
from roundtrip.auth import jwks
from roundtrip.commands.arguments import Parser
from roundtrip.environment import load
from roundtrip.errors import StorageError
from roundtrip.limits.connections import bind
from roundtrip.links.store import LinkStore
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.settings import Settings, SettingsError
from roundtrip.telemetry.redaction import message_of

IMPORT_TIMEOUT: Final = 60.0
"""Seconds that loading the WhatsApp library may take."""


class CheckError(Exception):
    """What is wrong, in one line."""


def run(arguments: list[str]) -> int:
    """One line for each check on standard output. Exit status 0 if all is well, 1 if not, 2 for a wrong setting."""
    Parser("check", "Try settings, store, keys, ports and driver, and say what is wrong.").parse_args(arguments)
    try:
        settings = load()
    except SettingsError as error:
        _say("FAIL", "settings", str(error))
        return 2
    _say("ok", "settings", f"auth {settings.auth}, driver {settings.whatsapp_driver}")
    return asyncio.run(_run_checks(settings))


async def _run_checks(settings: Settings) -> int:
    failed = 0
    if settings.store is not None:
        from roundtrip.commands.store_check import findings  # only where it is asked for

        async for verdict, text in findings(settings.store.get_secret_value()):
            failed += verdict == "FAIL"
            _say(verdict, "store", text)
    for name, check in CHECKS.items():
        if check is _check_store and settings.store is not None:
            continue
        try:
            _say("ok", name, await check(settings))
        except CheckError as error:
            failed += 1
            _say("FAIL", name, str(error))
    return 1 if failed else 0


async def _check_store(settings: Settings) -> str:
    """Open the outbox and the links' records as a start would, which creates or migrates them."""
    outbox = SqliteOutbox(settings.data_dir, max_bytes=settings.outbox_max_bytes)
    try:
        await outbox.start()
        try:
            store = LinkStore(settings.data_dir)
            links = await store.open()
            await store.close()
        finally:
            await outbox.close()
    except (StorageError, OSError) as error:
        raise CheckError(f"ROUNDTRIP_DATA_DIR={settings.data_dir}: {error}") from None
    return f"{settings.data_dir} can be written; {len(links)} links"


async def _check_keys(settings: Settings) -> str:
    if settings.auth == "trusted":
        return "none needed: every caller is believed (ROUNDTRIP_AUTH=trusted)"
    if settings.jwks_url is None:
        return "ROUNDTRIP_JWT_PUBLIC_KEY is a usable public key"
    try:
        async with asyncio.timeout(jwks.FETCH_TIMEOUT):
            keys = jwks.parse_jwks(await jwks.fetch(settings.jwks_url))
    except Exception as error:  # noqa: BLE001  # whatever is wrong with the network or the document is the finding
        raise CheckError(f"ROUNDTRIP_JWKS_URL={settings.jwks_url}: {message_of(error)}") from None
    if not keys:
        raise CheckError(f"ROUNDTRIP_JWKS_URL={settings.jwks_url}: the issuer publishes no key that can be used")
    return f"{len(keys)} from {settings.jwks_url}"


async def _check_ports(settings: Settings) -> str:
    places = {"": (settings.host, settings.port), "ADMIN_": (settings.admin_host, settings.admin_port)}
    for prefix, (host, port) in places.items():
        try:
            listening = await bind(host, port, 1)
        except OSError as error:
            raise CheckError(explain(error, host, port, prefix)) from None
        for one in listening:
            one.close()
    return " and ".join(f"{host}:{port}" for host, port in places.values()) + " are free"


async def _check_driver(settings: Settings) -> str:
    """Load the WhatsApp library, in a process of its own: it is large, and cannot be unloaded."""
    if settings.whatsapp_driver == "simulated":
        return "simulated: no account is really linked"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import neonize", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(IMPORT_TIMEOUT):
            _, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CheckError(f"loading neonize took more than {IMPORT_TIMEOUT:.0f} s") from None
    if process.returncode:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        cure = " (install libmagic: apt-get install libmagic1)" if "libmagic" in last else ""
        raise CheckError(f"neonize cannot be loaded: {last}{cure}")
    return "neonize can be loaded"


async def _check_page(_settings: Settings) -> str:
    missing = [path for path in VENDOR.values() if not library(path).is_file()]
    if missing:
        raise CheckError(f"libraries are missing ({', '.join(missing)}): run `npm ci`; all but the page works without")
    return "libraries are there"


CHECKS: Final[Mapping[str, Callable[[Settings], Awaitable[str]]]] = {
    "store": _check_store,
    "keys": _check_keys,
    "ports": _check_ports,
    "driver": _check_driver,
    "page": _check_page,
}
"""Each returns what it found, or raises `CheckError`."""


def _say(verdict: str, name: str, text: str) -> None:
    print(f"{verdict:<6}{name:<10}{text}", flush=True)  # noqa: T201  # the output
