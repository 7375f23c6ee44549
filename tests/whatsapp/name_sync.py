"""How a device learns its account's name: the phone hands it a key, and the server keeps settings under it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
import time

from tests.whatsapp.noise import hkdf
from tests.whatsapp.schema import e2e, server_sync, sync_action
from tests.whatsapp.sealed import cbc

COLLECTION = "critical_block"
SET = 0


class NameSync:
    """One account's settings, as far as a test needs them: the name."""

    def __init__(self) -> None:
        self._key_id = secrets.token_bytes(6)
        self._key = secrets.token_bytes(32)

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
        """The first and only change: the account is called `name`."""
        keys = hkdf(self._key, None, 160, b"WhatsApp Mutation Keys")
        index_key, value_key, value_mac_key, snapshot_key, patch_key = (keys[at : at + 32] for at in range(0, 160, 32))
        index = json.dumps(["setting_pushName"]).encode()
        value = sync_action.SyncActionValue(timestamp=int(time.time() * 1000))
        value.pushNameSetting.name = name
        data = sync_action.SyncActionData(index=index, value=value, padding=b"", version=1).SerializeToString()
        iv = secrets.token_bytes(16)
        sealed = iv + cbc(value_key, iv, data)
        named = bytes([SET + 1]) + self._key_id
        value_mac = hmac.digest(value_mac_key, named + sealed + struct.pack("!Q", len(named)), hashlib.sha512)[:32]
        # the state's hash is a sum over all values; with one value it is that value's own
        state = hkdf(value_mac, None, 128, b"WhatsApp Patch Integrity")
        end = struct.pack("!Q", 1) + COLLECTION.encode()
        snapshot_mac = hmac.digest(snapshot_key, state + end, hashlib.sha256)
        record = server_sync.SyncdRecord(
            index=server_sync.SyncdIndex(blob=hmac.digest(index_key, index, hashlib.sha256)),
            value=server_sync.SyncdValue(blob=sealed + value_mac),
            keyID=server_sync.KeyId(ID=self._key_id),
        )
        patch = server_sync.SyncdPatch(
            version=server_sync.SyncdVersion(version=1),
            mutations=[server_sync.SyncdMutation(operation=SET, record=record)],
            snapshotMAC=snapshot_mac,
            patchMAC=hmac.digest(patch_key, snapshot_mac + value_mac + end, hashlib.sha256),
            keyID=server_sync.KeyId(ID=self._key_id),
        )
        return bytes(patch.SerializeToString())
