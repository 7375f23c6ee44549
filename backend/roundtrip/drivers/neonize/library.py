"""The parts of neonize that a worker uses. Importing this loads the Go library: only a worker may."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any, Final

from neonize._binder import ProxySettings
from neonize.aioze import client as client_module
from neonize.aioze import events
from neonize.aioze.client import NewAClient
from neonize.proto.waCompanionReg.WAWebProtobufsCompanionReg_pb2 import DeviceProps
from neonize.utils.enum import ClientType
from neonize.utils.log import log

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
"""Event classes by the names that `library_events` uses."""

HISTORY: Final = DeviceProps.HistorySyncConfig(
    fullSyncDaysLimit=1,
    fullSyncSizeMbLimit=1,
    storageQuotaMb=1,
    recentSyncDaysLimit=1,
    inlineInitialPayloadInE2EeMsg=False,
    supportCallLogHistory=False,
    supportBotUserAgentChatHistory=False,
    supportCagReactionsAndPolls=False,
    supportBizHostedMsg=False,
    supportRecentSyncChunkMessageCountTuning=False,
    supportHostedGroupMsg=False,
    supportFbidBotChatHistory=False,
    supportMessageAssociation=False,
)
"""As little of the account's history as can be requested: nothing here reads it. Names every field that neonize knows,
because a field left out keeps whatsmeow's default (10 GB of quota, every kind supported)."""


STORE: Final = "_foreign_keys=on&_busy_timeout=5000&_journal_mode=WAL&_synchronous={}"
"""How SQLite writes a key file. By default each message read costs three transactions with three waits for the disk
each; so one account in busy groups would keep the disk from all others for minutes."""


def make_client(store: str, session: str, device_name: str, *, paired: bool) -> NewAClient:
    """A client, not connected yet. `store` is a bare file name in the working folder.

    A pairing is on the disk before it is reported. What a paired device writes afterwards outlives this process at
    once, and a failure of the machine when the system has written it, in half a minute: lost is the ratchets' newest
    state, which WhatsApp's retries restore.

    The device's properties count at the pairing only: the phone keeps them. DESKTOP shows a computer's icon, not a
    browser's.
    """
    props = DeviceProps(
        os=device_name, platformType=DeviceProps.DESKTOP, requireFullSync=False, historySyncConfig=HISTORY
    )
    # the library adds "?_foreign_keys=on" to the name, which so becomes the value of a parameter that SQLite ignores
    settings = STORE.format("NORMAL" if paired else "FULL")
    return NewAClient(f"{store}?{settings}&rest=", props=props, uuid=session)


def is_running(client: NewAClient) -> bool:
    """Whether the library has registered the client for good: it hands its device over first of all."""
    return client.me is not None


async def pair_phone(client: NewAClient, digits: str) -> str:
    """The code to type into the phone of that number. WhatsApp accepts only a browser as the kind of client in this
    request; it is not what the list of devices shows."""
    return str(await client.PairPhone(digits, True, client_type=ClientType.FIREFOX))


def read_log(callback: Callable[[bytes], None], *, pairing: bool) -> None:
    """Call `callback` with each line of the library's log, in the Go side's threads, in place of neonize's logging.
    Call it before `connect`. How many codes there are is in DEBUG lines only; all else that counts is WARN or above."""
    log.setLevel(logging.DEBUG if pairing else logging.WARNING)

    def on_line(line: int, size: int) -> None:
        if line and size > 0:
            callback(ctypes.string_at(line, size))

    client_module.log_whatsmeow = on_line


__all__ = ["EVENTS", "NewAClient", "ProxySettings", "is_running", "make_client", "pair_phone", "read_log"]
