"""What the worker uses of neonize. Importing this loads the Go library: only a worker may."""

from __future__ import annotations

from typing import Any, Final

from neonize._binder import ProxySettings
from neonize.aioze import events
from neonize.aioze.client import NewAClient

EVENTS: Final[dict[str, Any]] = {
    "Connected": events.ConnectedEv,
    "PairStatus": events.PairStatusEv,
    "KeepAliveTimeout": events.KeepAliveTimeoutEv,
    "KeepAliveRestored": events.KeepAliveRestoredEv,
    "LoggedOut": events.LoggedOutEv,
    "StreamReplaced": events.StreamReplacedEv,
    "TemporaryBan": events.TemporaryBanEv,
    "ConnectFailure": events.ConnectFailureEv,
    "ClientOutdated": events.ClientOutdatedEv,
    "StreamError": events.StreamErrorEv,
    "Disconnected": events.DisconnectedEv,
}
"""Event classes by the names that `worker_events` knows."""

__all__ = ["EVENTS", "NewAClient", "ProxySettings"]
