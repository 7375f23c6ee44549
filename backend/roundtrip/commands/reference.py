"""The settings as text: for `--help`, and as the document `docs/settings.md`. Never a value that is set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo

from roundtrip.environment import FILE_SUFFIX, SECRETS, allowed, variable
from roundtrip.settings import Settings

GROUPS: Final = {
    "host": "Listeners and files",
    "whatsapp_driver": "WhatsApp",
    "start_concurrency": "Links",
    "auth": "Identity",
    "store": "Delivery",
    "forwarded_allow_ips": "Limits",
    "ping_interval": "Heartbeats",
    "faults": "Development and telemetry",
}
"""The title of each group by its first setting; it goes on until the next one begins."""

OTEL: Final = "OpenTelemetry's own OTEL_* variables hold as they are; with no OTLP endpoint nothing is exported."


def groups() -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    """Each group's title and its settings, in the order of `settings.py`."""
    title, group = "", dict[str, FieldInfo]()
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            if group:
                yield title, group
            title, group = GROUPS[name], {}
        group[name] = field
    yield title, group


def settings_text() -> str:
    """One line per setting: its name, what it is for, what it may be, and its default."""
    lines = ["Settings, all from the environment."]
    for title, group in groups():
        lines += ["", f"{title}:"]
        lines += [
            f"  {variable(name):<42}{field.description} [{allowed(field)}] (default: {_default(field.default)})"
            for name, field in group.items()
        ]
    return "\n".join([*lines, "", _secrets(), OTEL])


def settings_markdown() -> str:
    """The settings reference, one table a group."""
    lines = [
        "# Settings reference",
        "",
        "Generated from `backend/roundtrip/settings.py` by `python -m tools.documents`. All settings come from the",
        "environment; a wrong or unknown one is one line on standard error and exit status 2.",
        "",
        _secrets(code="`"),
    ]
    for title, group in groups():
        lines += ["", f"## {title}", "", "| setting | what it is for | allowed | default |", "|---|---|---|---|"]
        for name, field in group.items():
            extra = field.json_schema_extra
            default = extra.get("default") if isinstance(extra, dict) else None
            cells = (f"`{variable(name)}`", str(field.description), allowed(field), default or _default(field.default))
            lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", "## OpenTelemetry", "", OTEL.replace("OTEL_*", "`OTEL_*`"), ""])


def _default(default: Any) -> str:
    return "unset" if default in (None, ()) else str(default)


def _secrets(code: str = "") -> str:
    """Which settings a file may hold."""
    names = ", ".join(f"{code}{variable(name)}{code}" for name in SECRETS)
    return (
        f"Secrets ({names}) are never shown. Each may stand in a file instead: {code}<NAME>{FILE_SUFFIX}{code} is the\n"
        "file's path. It is read at start, without its last newline; to set both is an error."
    )
