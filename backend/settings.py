"""Every setting, read once from the environment (prefix `ROUNDTRIP_`) and handed on."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "ROUNDTRIP_"

CommaList = Annotated[tuple[str, ...], NoDecode]


class SettingsError(ValueError):
    """A wrong setting, said in one line."""


class Settings(BaseSettings):
    """Times are in seconds, sizes in bytes. `SecretStr` values are never printed."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address of the public listener")
    port: int = Field(8080, ge=0, le=65535, description="Port of the public listener, 0 for a free one")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener (metrics, health, debug)")
    admin_port: int = Field(9464, ge=0, le=65535, description="Port of the admin listener, 0 for a free one")
    data_dir: Path = Field(Path("data"), description="Folder of the outbox and the WhatsApp stores")

    whatsapp_driver: Literal["neonize", "simulated"] = Field("neonize", description="Who talks to WhatsApp")
    whatsapp_proxy: str | None = Field(None, description="http, https or socks5 proxy towards WhatsApp")
    simulated_scan_after: float | None = Field(
        None,
        ge=0,
        description="Simulated phone: seconds until it scans by itself; unset waits for the button",
    )
    simulated_speed: float = Field(1.0, gt=0, description="Simulated phone: factor on its real timing, for tests")

    auth: Literal["jwt", "trusted"] = Field("jwt", description="How callers prove who they are")
    jwks_url: str | None = Field(None, description="Where the token issuer publishes its keys")
    jwt_public_key: SecretStr | None = Field(None, description="The token issuer's public key, PEM")
    jwt_issuer: str | None = Field(None, description="The `iss` that tokens must carry")
    jwt_audience: str | None = Field(None, description="The `aud` that tokens must carry")
    api_keys: SecretStr | None = Field(None, description="Keys of service callers")
    cors_origins: CommaList = Field((), description="Origins whose pages may call, comma list; never * with jwt")

    outbox: str = Field("sqlite", description="sqlite, or redis://… (not built yet)")
    event_ttl: float = Field(86400.0, gt=0, description="Seconds until an undelivered event expires")
    ack_timeout: float = Field(5.0, gt=0, description="Seconds to wait for a receipt or acknowledgement")
    max_sockets_per_key: int = Field(16, ge=1, description="Sockets that one user's bot may have at once")
    send_queue_limit: int = Field(1 << 20, ge=4096, description="Bytes that may wait for one slow socket")

    faults: CommaList = Field((), description="Named faults to switch on, comma list (development only)")
    pii_hash_key: SecretStr | None = Field(None, description="Key of the hashes that stand for user ids")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level to log")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON")

    @field_validator("cors_origins", "faults", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.auth == "trusted":
            for name in ("host", "admin_host"):
                if not is_loopback(getattr(self, name)):
                    raise ValueError(
                        f"{PREFIX}AUTH=trusted believes every caller, "
                        f"so {PREFIX}{name.upper()} must be a loopback address"
                    )
        elif self.jwks_url is None and self.jwt_public_key is None:
            raise ValueError(f"{PREFIX}AUTH=jwt needs {PREFIX}JWKS_URL or {PREFIX}JWT_PUBLIC_KEY to verify tokens")
        if self.auth == "jwt" and "*" in self.cors_origins:
            raise ValueError(f"{PREFIX}CORS_ORIGINS may not be * with {PREFIX}AUTH=jwt")
        if self.outbox != "sqlite":
            raise ValueError(f"{PREFIX}OUTBOX must be sqlite: the redis outbox is not built yet")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load() -> Settings:
    """Read the environment. Raises `SettingsError` with one line for the first wrong setting."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        where = f"{PREFIX}{'_'.join(map(str, first['loc'])).upper()}: " if first["loc"] else ""
        raise SettingsError(f"{where}{message}") from None


def describe() -> str:
    """One line per setting: its name, what it is for, and its default. Never a value."""
    lines = ["Settings, all from the environment:", ""]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = "unset" if default in (None, ()) else default
        lines.append(f"  {PREFIX + name.upper():<34}{field.description} (default: {shown})")
    lines += [
        "",
        "OpenTelemetry's own OTEL_* variables hold as they are; with no OTLP endpoint nothing is exported.",
    ]
    return "\n".join(lines)
