"""Every setting (prefix `ROUNDTRIP_`) with its bounds. Values only: no part is imported; `environment.py` reads them.

To add a setting, touch:

- here: a field of `Settings` with its bounds and description, and a validator if values must agree with each other; a
  value that only its part can parse gets a row in `environment.py`'s `_PARSERS`. A secret is a `SecretStr`: it is never
  shown, and may be read from a file, by `<NAME>_FILE`. Its description names the unit ("Seconds …", "Bytes …");
- `app.py`: hand it to the part that uses it;
- `python -m tools.documents`, which writes the settings reference; `docker-compose.yml` if the stack sets it;
- `tests/test_settings_table.py`: a test that it has an effect.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from roundtrip.origins import is_loopback, parse_origin

PREFIX = "ROUNDTRIP_"

DEFAULT_START_CONCURRENCY = max(1, (os.cpu_count() or 2) // 2)
"""Half of the cores: a session that starts keeps a core busy, and deliveries need one too."""

MIN_SECRET_LENGTH: Final = 16
"""Characters of a secret; a shorter one could be guessed."""

CommaList = Annotated[tuple[str, ...], NoDecode]


MAY_BE_EMPTY: Final = frozenset({"cors_origins", "forwarded_allow_ips", "faults"})
"""An empty list of these lets nobody in, trusts nobody and breaks nothing."""


class SettingsError(ValueError):
    """A wrong setting; the message is one line, and holds no secret."""


class Settings(BaseSettings):
    """Times are in seconds, sizes in bytes. `SecretStr` values are never printed."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address of the public listener")
    port: int = Field(8080, ge=0, le=65535, description="Port of the public listener, 0 for a free one")
    admin_host: str = Field("127.0.0.1", description="Address of the admin listener (metrics, health, debug)")
    admin_port: int = Field(9464, ge=0, le=65535, description="Port of the admin listener, 0 for a free one")
    data_dir: Path = Field(Path("data"), description="Directory of the outbox and the WhatsApp session keys")

    whatsapp_driver: Literal["neonize", "simulated"] = Field(
        "neonize", description="WhatsApp driver; simulated for development"
    )
    whatsapp_proxy: SecretStr | None = Field(
        None, description="URL of an http, https or socks5 proxy for connections to WhatsApp; may contain a password"
    )
    device_name: str = Field(
        "Roundtrip",
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$",
        description="Name of this server in the phone's list of linked devices, as of the time of linking",
    )
    sessions_per_worker: int = Field(32, ge=1, le=500, description="Paired accounts that share a worker process")
    worker_memory_limit: int = Field(512, ge=64, description="MB of a worker, above which its accounts leave it")
    simulated_scan_after: float | None = Field(
        None,
        ge=0,
        description="Simulated phone: seconds until it scans automatically; unset: wait for the button",
    )
    simulated_speed: float = Field(1.0, gt=0, description="Simulated phone: factor on its real timing, for tests")

    # links
    start_concurrency: int = Field(
        DEFAULT_START_CONCURRENCY,
        ge=1,
        description="WhatsApp sessions that may be starting at once",
        json_schema_extra={"default": "half of the cores"},  # what the reference says, on whatever machine it is made
    )
    restore_concurrency: int = Field(8, ge=1, description="Paired links that may be logging in at once")
    max_links_per_user: int = Field(20, ge=1, description="Links that one user may have at once")
    pairing_timeout: float = Field(160.0, gt=0, description="Seconds until a pairing code expires")
    pairing_patience: float = Field(1800.0, gt=0, description="Seconds after which a link that was never paired ends")
    login_timeout: float = Field(5.0, gt=0, description="Seconds from the scan until an incomplete login is retried")
    paired_timeout: float = Field(60.0, gt=0, description="Seconds from the scan until an incomplete login is reported")
    unreachable_after: float = Field(
        45.0, gt=0, description="Seconds without a response at start until WhatsApp is reported as unreachable"
    )
    degraded_timeout: float = Field(
        45.0, gt=0, description="Seconds of unanswered pings until the connection is replaced by a new one"
    )
    ban_cooldown: float = Field(
        3600.0, gt=0, description="Seconds until a banned account is retried if WhatsApp gives no end of the ban"
    )
    refused_first: float = Field(
        15.0, gt=0, description="Seconds before a paired account that WhatsApp refused is retried; doubles each time"
    )
    refused_cap: float = Field(
        300.0,
        gt=0,
        description="Maximum seconds between two such retries; four times as long after a WhatsApp rate limit",
    )
    outdated_retry: float = Field(
        900.0, gt=0, description="Seconds until one link retries after WhatsApp refused the library's version"
    )
    removal_period: float = Field(
        86400.0,
        ge=0,
        description="Seconds during which the removal of a logged out device is retried and its keys are kept",
    )
    stuck_timeout: float = Field(60.0, gt=0, description="Seconds without progress until a session is restarted")
    reconnect_timeout: float = Field(
        60.0, gt=0, description="Seconds that the library may reconnect on its own before the session is restarted"
    )
    disconnect_grace: float = Field(5.0, ge=0, description="Seconds until a lost connection is reported")
    retry_limit: int = Field(
        6, ge=0, description="Failed connection attempts before WhatsApp is reported as unreachable"
    )
    retry_first: float = Field(1.0, gt=0, description="Seconds before the first retry; doubles, with jitter")
    retry_cap: float = Field(60.0, gt=0, description="Maximum seconds between two retries")
    restart_limit: int = Field(
        5,
        ge=0,
        description="Worker exits of one link, within the window, until it is reported; a paired link is still retried",
    )
    restart_window: float = Field(600.0, gt=0, description="Seconds of that window")
    truth_interval: float = Field(30.0, gt=0, description="Seconds between comparisons with the library's state")
    truth_misses: int = Field(3, ge=1, description="Comparisons without a response until a worker is restarted")
    flap_limit: int = Field(5, ge=1, description="Lost connections, within the window, that are reported individually")
    flap_window: float = Field(120.0, gt=0, description="Seconds of that window")
    flap_calm: float = Field(60.0, gt=0, description="Seconds without a change until a flapping link is stable")

    auth: Literal["jwt", "trusted"] = Field(
        "jwt", description="Authentication of callers; trusted: none, on loopback only"
    )
    jwks_url: str | None = Field(None, description="URL of the token issuer's JWKS document")
    jwks_outage: float = Field(
        86400.0, gt=0, description="Seconds that cached keys are used while the issuer is unreachable"
    )
    jwks_empty_grace: float = Field(
        300.0, ge=0, description="Seconds that cached keys are used after the issuer published an empty key set"
    )
    jwt_public_key: SecretStr | None = Field(None, description="The token issuer's public key, PEM")
    jwt_issuer: str | None = Field(None, description="The `iss` that tokens must carry")
    jwt_audience: str | None = Field(None, description="The `aud` that tokens must carry")
    jwt_leeway: float = Field(
        30.0, ge=0, le=300, description="Seconds of clock difference to the issuer that are tolerated"
    )
    jwt_authorized_parties: CommaList = Field((), description="The allowed `azp` of tokens, comma list")
    token_grace: float = Field(30.0, ge=0, description="Seconds from a token's expiry until its socket is disconnected")
    api_keys: SecretStr | None = Field(
        None, description="Keys of service callers, comma list of name:scope+scope:sha256hex"
    )
    admin_key: SecretStr | None = Field(
        None, description="Bearer token or password of the admin listener; required unless it is on loopback"
    )
    cors_origins: CommaList = Field(
        (),
        description="Origins of web pages that may call from another address, comma list of scheme://host[:port]; "
        "trusted allows loopback origins too; never * with jwt",
    )

    store: SecretStr | None = Field(
        None, description="postgresql://… keeps everything in PostgreSQL; unset, SQLite files in ROUNDTRIP_DATA_DIR do"
    )
    lease: float = Field(15.0, ge=2, le=300, description="Seconds after which a silent node loses what it holds")
    node_id: str | None = Field(None, pattern=r"^[\w.:-]{1,64}$", description="Name of this process; made if unset")
    hand_over_time: float = Field(
        20.0, ge=0, le=600, description="Seconds that a stop may take to hand links over to other nodes"
    )
    outbox_max_bytes: int = Field(
        1 << 30, ge=1 << 20, description="Bytes of stored events above which new links are refused"
    )
    outbox_retention: float = Field(7 * 86400.0, ge=0, description="Seconds that a resolved event stays in the ledger")
    event_ttl: float = Field(86400.0, gt=0, description="Seconds until an undelivered event expires")
    ack_timeout: float = Field(5.0, gt=0, description="Seconds to wait for a receipt or acknowledgement")
    max_sockets_per_key: int = Field(16, ge=1, description="Maximum sockets of one user's bot")
    send_queue_limit: int = Field(1 << 20, ge=4096, description="Bytes that may be queued for one socket")

    canary_interval: float = Field(
        30.0, ge=0, description="Seconds between two events that the node sends to itself as a client; 0 sends none"
    )
    canary_url: str | None = Field(
        None, description="Public address that the canary uses, such as the proxy's; unset: the listener's own"
    )

    # limits
    forwarded_allow_ips: CommaList = Field(
        (), description="Proxies whose X-Forwarded-For is trusted, comma list of addresses and networks"
    )
    handshakes_per_address: float = Field(500.0, gt=0, description="New connections a second from one address")
    handshakes_per_address_burst: int = Field(2000, ge=1, description="New connections at once from one address")
    handshakes_per_user: float = Field(200.0, gt=0, description="New sockets a second of one user")
    handshakes_per_user_burst: int = Field(2000, ge=1, description="New sockets at once of one user")
    max_connections: int = Field(20_000, ge=1, description="TCP connections to the public listener")
    max_connections_per_address: int = Field(10_000, ge=1, description="TCP connections from one address")
    max_sockets_per_user: int = Field(5000, ge=1, description="Sockets of one user, over all bots")
    events_per_socket: float = Field(50.0, gt=0, description="Requests a second from one socket, acks not counted")
    events_per_socket_burst: int = Field(200, ge=1, description="Requests at once from one socket")
    pairings_per_hour: float = Field(120.0, gt=0, description="Pairings that one user may start in an hour")
    max_packet: int = Field(65_536, ge=1024, description="Bytes of one packet from a client")
    max_body: int = Field(65_536, ge=1024, description="Bytes of a request's body")
    max_json_depth: int = Field(16, ge=1, le=200, description="Levels of nesting in a request's body")
    body_timeout: float = Field(10.0, gt=0, description="Seconds within which a request's body must arrive")
    header_timeout: float = Field(10.0, gt=0, description="Seconds within which a new connection's request must arrive")

    ping_interval: float = Field(25.0, ge=1, description="Seconds between two heartbeats (pings) of a socket")
    ping_timeout: float = Field(20.0, ge=1, description="Seconds without a pong until a socket is disconnected")

    faults: CommaList = Field((), description="Named faults to switch on, comma list (development only)")
    allow_faults: bool = Field(False, description="Allow faults with jwt too; trusted always does")
    pii_hash_key: SecretStr | None = Field(None, description="HMAC key for user ids in logs and traces")
    trace_url_template: str | None = Field(None, description="URL of a trace in your viewer, with {trace_id} in it")
    trace_ring_bytes: int = Field(8 << 20, ge=0, le=1 << 30, description="Bytes of newest traces in memory, 0 for none")
    browser_traces: bool = Field(False, description="Accept spans that pages send of the events they handled")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Minimum level of log lines")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON")

    @field_validator("cors_origins", "faults", "jwt_authorized_parties", "forwarded_allow_ips", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_empty(cls, value: object, info: ValidationInfo) -> object:
        """Compose passes an unset variable on as an empty string, which must neither grant access nor disable a check.
        Runs before `_split`, which is defined above it."""
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        empty = isinstance(text, str) and not text.strip(" \t\r\n,")
        if empty and info.field_name not in MAY_BE_EMPTY:
            raise ValueError("is set but empty: give it a value, or leave it out")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _parse_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(parse_origin, value)))

    @field_validator("admin_key", "pii_hash_key")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        text = None if value is None else value.get_secret_value()
        if text is not None and text != text.strip():
            raise ValueError("must not begin or end with spaces")
        if text is not None and len(text) < MIN_SECRET_LENGTH:
            raise ValueError(f"must have at least {MIN_SECRET_LENGTH} characters")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None and not _is_safe_url(value):
            raise ValueError("must be an https address, or http on loopback: who changes the keys makes the tokens")
        return value

    @field_validator("canary_url")
    @classmethod
    def _check_canary_url(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://unset")
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0  # which raises, too
        if not usable or parts.query or parts.fragment:
            raise ValueError("must be an http or https address, without a query")
        return value

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
        if self.faults and not self.faults_allowed:
            raise ValueError(f"{PREFIX}FAULTS is for development: it needs AUTH=trusted or {PREFIX}ALLOW_FAULTS=true")
        if self.admin_key is None and not is_loopback(self.admin_host):
            raise ValueError(f"{PREFIX}ADMIN_HOST is not a loopback address, so {PREFIX}ADMIN_KEY must be set")
        return self

    @property
    def faults_allowed(self) -> bool:
        return self.auth == "trusted" or self.allow_faults


def _is_safe_url(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    )
