"""An account's settings ("app state"): the phone hands a device the key, and the server keeps them sealed with it.

The name is always among them; contacts and chats are for an account that has a `Past`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
import time
from typing import Any

from tests.whatsapp.history import Change
from tests.whatsapp.noise import hkdf
from tests.whatsapp.schema import e2e, server_sync, sync_action
from tests.whatsapp.sealed import cbc

COLLECTION = "critical_block"
SET = 0


class NameSync:
    """One account's settings."""

    def __init__(self) -> None:
        self._key_id = secrets.token_bytes(6)
        self._key = secrets.token_bytes(32)
        keys = hkdf(self._key, None, 160, b"WhatsApp Mutation Keys")
        self._keys = [keys[at : at + 32] for at in range(0, 160, 32)]
        """For the index, the value, the code over the value, over a snapshot, over a patch."""

    def key_share(self) -> bytes:
        """The message in which the phone hands over the key."""
        fingerprint = e2e.AppStateSyncKeyFingerprint(rawID=1, currentIndex=1, deviceIndexes=[0, 1])
        data = e2e.AppStateSyncKeyData(keyData=self._key, fingerprint=fingerprint, timestamp=int(time.time()))
        key = e2e.AppStateSyncKey(keyID=e2e.AppStateSyncKeyId(keyID=self._key_id), keyData=data)
        inner = e2e.ProtocolMessage(
            type=e2e.ProtocolMessage.APP_STATE_SYNC_KEY_SHARE,
            appStateSyncKeyShare=e2e.AppStateSyncKeyShare(keys=[key]),
        )
        return bytes(e2e.Message(protocolMessage=inner).SerializeToString())

    def patch(self, name: str) -> bytes:
        """The first and only change of the name's collection: the account is called `name`."""
        record, value_mac = self._record((["setting_pushName"], {"pushNameSetting": {"name": name}}))
        end = _end(COLLECTION)
        snapshot_mac = hmac.digest(self._keys[3], _state([value_mac]) + end, hashlib.sha256)
        patch = server_sync.SyncdPatch(
            version=server_sync.SyncdVersion(version=1),
            mutations=[server_sync.SyncdMutation(operation=SET, record=record)],
            snapshotMAC=snapshot_mac,
            patchMAC=hmac.digest(self._keys[4], snapshot_mac + value_mac + end, hashlib.sha256),
            keyID=server_sync.KeyId(ID=self._key_id),
        )
        return bytes(patch.SerializeToString())

    def snapshot(self, collection: str, changes: list[Change]) -> bytes:
        """All of a collection at once, as a new device gets it."""
        made = [self._record(change) for change in changes]
        state = _state([value_mac for _, value_mac in made])
        snapshot = server_sync.SyncdSnapshot(
            version=server_sync.SyncdVersion(version=1),
            records=[record for record, _ in made],
            mac=hmac.digest(self._keys[3], state + _end(collection), hashlib.sha256),
            keyID=server_sync.KeyId(ID=self._key_id),
        )
        return bytes(snapshot.SerializeToString())

    def _record(self, change: Change) -> tuple[Any, bytes]:
        """A setting, sealed, and the code over its value."""
        index_key, value_key, value_mac_key, _, _ = self._keys
        index = json.dumps(change[0]).encode()
        value = sync_action.SyncActionValue(timestamp=int(time.time() * 1000), **change[1])
        data = sync_action.SyncActionData(index=index, value=value, padding=b"", version=1).SerializeToString()
        iv = secrets.token_bytes(16)
        sealed = iv + cbc(value_key, iv, data)
        named = bytes([SET + 1]) + self._key_id
        value_mac = hmac.digest(value_mac_key, named + sealed + struct.pack("!Q", len(named)), hashlib.sha512)[:32]
        record = server_sync.SyncdRecord(
            index=server_sync.SyncdIndex(blob=hmac.digest(index_key, index, hashlib.sha256)),
            value=server_sync.SyncdValue(blob=sealed + value_mac),
            keyID=server_sync.KeyId(ID=self._key_id),
        )
        return record, value_mac


def _end(collection: str) -> bytes:
    """What the codes over version 1 of a collection end with."""
    return struct.pack("!Q", 1) + collection.encode()


def _state(value_macs: list[bytes]) -> bytes:
    """The hash of a collection: what its values expand to, summed up in 16-bit words."""
    words = [0] * 64
    for value_mac in value_macs:
        more = struct.unpack("<64H", hkdf(value_mac, None, 128, b"WhatsApp Patch Integrity"))
        words = [(a + b) & 0xFFFF for a, b in zip(words, more, strict=True)]
    return struct.pack("<64H", *words)
