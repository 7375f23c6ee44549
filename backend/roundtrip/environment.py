"""Reads the settings from the environment: secrets from files too, and every error in one line that names its cure.

A variable that begins with `ROUNDTRIP_` and is no setting is refused, and so is the name of a setting that lacks the
prefix: a setting that is misspelled would have no effect, and nobody would know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from roundtrip.auth.jwks import OneKey
from roundtrip.auth.service_keys import ServiceKeys
from roundtrip.faults import FaultError, parse
from roundtrip.limits.addresses import Proxies
from roundtrip.settings import PREFIX, Settings, SettingsError

FILE_SUFFIX: Final = "_FILE"
"""Ends the name of the variable that names a secret's file."""

MAX_SECRET_FILE: Final = 1 << 20
"""Bytes of a secret's file; a larger one is none."""

MAX_SHOWN: Final = 80
"""Characters of a wrong value that an error repeats."""

NEAR: Final = 0.91
"""Likeness from which a name without the prefix is taken for a setting's: one letter in a dozen differs."""

SHORTEST_NEAR: Final = 12
"""Letters of a setting whose name without the prefix is refused; shorter ones (`HOST`) belong to other programs."""

_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes sets in every pod of a namespace with a service of this name."""

REPLACED: Final = {f"{PREFIX}OUTBOX": f"{PREFIX}STORE took its place; leave both out for the SQLite files"}
"""Settings of earlier versions, and what became of them."""


def parse_store(address: str) -> None:
    """Raises `ValueError` for what is no address of a PostgreSQL database."""
    parts = urlsplit(address)
    if parts.scheme not in {"postgresql", "postgres"} or not parts.path.strip("/"):
        raise ValueError("must be postgresql://user@host/database, or unset for SQLite files")


_PARSERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "jwt_public_key": OneKey,
    "forwarded_allow_ips": Proxies,
    "faults": lambda specs: [parse(spec) for spec in specs],
    "api_keys": ServiceKeys.parse,
    "store": parse_store,
}
"""Settings whose syntax only their part knows: a wrong one is reported before anything starts."""


def variable(name: str) -> str:
    """The environment's name of a setting."""
    return PREFIX + name.upper()


def is_secret(field: FieldInfo) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))


SECRETS: Final = tuple(name for name, field in Settings.model_fields.items() if is_secret(field))
"""Settings that are never shown and may be read from a file."""


def load(defaults: Mapping[str, str | None] | None = None) -> Settings:
    """Read and check every setting. `defaults` are values, by a setting's name, for what the environment does not set.

    Raises `SettingsError` with one line for the first wrong one.
    """
    environment = {name.upper(): value for name, value in os.environ.items()}
    _refuse_unknown(environment)
    from_files: dict[str, Any] = {name: text for name in SECRETS if (text := _from_file(name, environment)) is not None}
    absent: dict[str, Any] = {
        name: value
        for name, value in (defaults or {}).items()
        if not {variable(name), variable(name) + FILE_SUFFIX} & environment.keys()
    }
    try:
        settings = Settings(**absent, **from_files)
    except ValidationError as error:
        raise SettingsError(_one_line(error, from_files)) from None
    for name, parse_value in _PARSERS.items():
        value = getattr(settings, name)
        try:
            if value is not None:
                parse_value(value.get_secret_value() if isinstance(value, SecretStr) else value)
        except (ValueError, FaultError) as error:
            raise SettingsError(f"{_source(name, from_files)}: {error}") from None
    return settings


def _from_file(name: str, environment: Mapping[str, str]) -> str | None:
    """A secret from the file that `<NAME>_FILE` names, without its last newline; None if it names none."""
    own, twin = variable(name), variable(name) + FILE_SUFFIX
    path = environment.get(twin)
    if path is None:
        return None
    if own in environment:
        raise SettingsError(f"{own} and {twin} are both set: keep one of them")
    if not path.strip():
        raise SettingsError(f"{twin}: is set but empty: give it the path of a file, or leave it out")
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_SECRET_FILE + 1)
        text = content.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{twin}: {path!r} is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        why = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{twin}: cannot read {path!r}: {why}") from None
    if len(content) > MAX_SECRET_FILE:
        raise SettingsError(f"{twin}: {path!r} has more than {MAX_SECRET_FILE} bytes")
    return text.removesuffix("\n").removesuffix("\r")


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    settings = {variable(name) for name in Settings.model_fields}
    known = settings | {variable(name) + FILE_SUFFIX for name in SECRETS}
    bare = {name.removeprefix(PREFIX): name for name in settings if len(name) >= SHORTEST_NEAR + len(PREFIX)}
    for name in sorted(environment.keys() - known):
        if name.startswith(PREFIX):
            if _SERVICE_LINK.fullmatch(name):
                continue
            if name in REPLACED:
                raise SettingsError(f"{name} is no setting any more: {REPLACED[name]}")
            likely = get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in known], 1)
            hint = f"did you mean {PREFIX}{likely[0]}?" if likely else "`roundtrip --help` lists all"
            raise SettingsError(f"{name} is no setting: {hint}")
        meant = [bare[found] for found in get_close_matches(name, bare, 1, NEAR)]
        if "TRIP" in name or "ROUND" in name:  # the prefix itself is misspelled
            meant = get_close_matches(name, known, 1, NEAR)
        if meant and meant[0] not in environment:
            raise SettingsError(f"{name} has no effect: did you mean {meant[0]}?")


def _source(name: str, from_files: Mapping[str, Any]) -> str:
    return variable(name) + (FILE_SUFFIX if name in from_files else "")


def _one_line(error: ValidationError, from_files: Mapping[str, Any]) -> str:
    """The first error: which setting, what it is, and what it may be."""
    first = error.errors(include_url=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    line = f"{_source(name, from_files)}: {message[0].lower() + message[1:]}"
    if name in SECRETS or "is set but empty" in message:
        return line
    given = os.environ.get(variable(name), str(first["input"]))
    if given.startswith("tcp://") and _SERVICE_LINK.fullmatch(variable(name)):
        return f"{line}; Kubernetes set it: set enableServiceLinks to false in the pod's spec, or rename the service"
    return f"{line}; it is {_shown(given)}, allowed: {allowed(Settings.model_fields[name])}"


def _shown(value: str) -> str:
    """A wrong value, on one line, short, without the password of an address."""
    shown = re.sub(r"//[^/@\s]*@", "//…@", value)
    return repr(shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + "…")


def allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: its choices, or its type or unit with its bounds."""
    kind: object = next((kind for kind in get_args(field.annotation) if kind is not type(None)), field.annotation)
    if get_origin(field.annotation) is Literal:
        return " or ".join(map(str, get_args(field.annotation)))
    if get_origin(field.annotation) is tuple:
        return "comma list"
    names: dict[object, str] = {
        bool: "true or false",
        Path: "path",
        SecretStr: "secret text",
        int: "whole number",
        float: "number",
    }
    text = field.description or ""
    unit = next((unit for words, unit in _UNITS if re.search(words, text)), None) if kind in (int, float) else None
    rules = [
        words.format(getattr(rule, key)) for rule in field.metadata for key, words in _BOUNDS if hasattr(rule, key)
    ]
    return ", ".join([unit or names.get(kind, "text"), *rules])


_UNITS: Final = (
    (r"\ba second\b", "number a second"),
    (r"\bin an hour\b", "number an hour"),
    (r"\b[Ss]econds\b", "seconds"),
    (r"^Bytes\b", "bytes"),
)
"""What in the description of a number is its unit."""

_BOUNDS: Final = (
    ("ge", "at least {}"),
    ("gt", "more than {}"),
    ("le", "at most {}"),
    ("min_length", "at least {} characters"),
    ("max_length", "at most {} characters"),
)
"""The attributes of the rules that pydantic keeps of a field, in words."""
