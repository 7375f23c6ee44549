"""An account's past: the history that a phone hands to a new device, in files on WhatsApp's media servers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.whatsapp.noise import hkdf
from tests.whatsapp.schema import e2e, history_sync, server_sync
from tests.whatsapp.sealed import cbc

KINDS = {"INITIAL_BOOTSTRAP": 0, "RECENT": 3, "PUSH_NAME": 4}
HOST = "mmg.whatsapp.net"
STATE = "state-"
"""Begins the names of the files with settings."""
CONTACTS, MUTED, ARCHIVED = "critical_unblock_low", "regular_high", "regular_low"
"""Collections of settings that grow with the account."""

Change = tuple[list[str], dict[str, dict[str, Any]]]
"""What a setting is about, and its value by the fields of SyncActionValue."""


@dataclass
class Past:
    """How much there is. The default is an ordinary phone's: three months of a few hundred chats."""

    chats: int = 400
    messages: int = 60
    """Of each chat, over all chunks."""
    contacts: int = 1500
    chunks: int = 4
    files: dict[str, bytes] = field(default_factory=dict)
    """What the media server has, by path."""
    fetched: list[str] = field(default_factory=list)
    """Paths that were downloaded."""
    raw_size: int = 0
    """Bytes of all files, unpacked."""

    def notifications(self, phone: str) -> list[bytes]:
        """The messages that name the files, serialized."""
        found = [self._file("INITIAL_BOOTSTRAP", 1, self._chats(phone, 1))]
        per_chunk = max(1, self.messages // self.chunks)
        found += [self._file("RECENT", order, self._chats(phone, per_chunk)) for order in range(1, self.chunks + 1)]
        names = [history_sync.Pushname(ID=_jid(at), pushname=f"Person {at}") for at in range(self.contacts)]
        found.append(self._file("PUSH_NAME", 1, {"pushnames": names}))
        return found

    def _chats(self, phone: str, messages: int) -> dict[str, object]:
        now = int(time.time())
        chats = []
        for at in range(self.chats):
            chat = history_sync.Conversation(ID=_jid(at), conversationTimestamp=now, unreadCount=1)
            for _ in range(messages):
                message = chat.messages.add().message
                message.key.remoteJID = _jid(at)
                message.key.ID = secrets.token_hex(10).upper()
                message.messageTimestamp = now
                message.messageSecret = secrets.token_bytes(32)
                message.message.conversation = secrets.token_urlsafe(90)
            chats.append(chat)
        return {"conversations": chats}

    def _file(self, kind: str, order: int, content: dict[str, object]) -> bytes:
        sync = history_sync.HistorySync(syncType=KINDS[kind], chunkOrder=order, progress=100, **content)
        raw = sync.SerializeToString()
        self.raw_size += len(raw)
        plain = zlib.compress(raw)
        path, key, sealed = self._store(f"{kind.lower()}-{order}", "History", plain)
        notification = e2e.HistorySyncNotification(
            fileSHA256=hashlib.sha256(plain).digest(),
            fileLength=len(plain),
            mediaKey=key,
            fileEncSHA256=hashlib.sha256(sealed).digest(),
            directPath=f"{path}?ccb=1",
            syncType=KINDS[kind],
            chunkOrder=order,
            progress=100,
        )
        inner = e2e.ProtocolMessage(
            type=e2e.ProtocolMessage.HISTORY_SYNC_NOTIFICATION, historySyncNotification=notification
        )
        return bytes(e2e.Message(protocolMessage=inner).SerializeToString())

    def _store(self, name: str, use: str, plain: bytes) -> tuple[str, bytes, bytes]:
        """Put a file on the media server, sealed with a key of its own. Returns (path, key, sealed)."""
        key = secrets.token_bytes(32)
        keys = hkdf(key, None, 112, f"WhatsApp {use} Keys".encode())
        iv, cipher_key, mac_key = keys[:16], keys[16:48], keys[48:80]
        sealed = cbc(cipher_key, iv, plain)
        sealed += hmac.digest(mac_key, iv + sealed, hashlib.sha256)[:10]
        path = f"/o1/v/{name}-{secrets.token_hex(4)}"
        self.files[path] = sealed
        return path, key, sealed

    def changes(self, collection: str) -> list[Change]:
        """What an account of this size has in a collection of its settings."""
        if collection == CONTACTS:
            people = range(self.contacts)
            return [(["contact", _jid(at)], {"contactAction": {"fullName": f"Person {at}"}}) for at in people]
        if collection == MUTED:
            muted = {"muteAction": {"muted": True, "muteEndTimestamp": -1}}
            return [(["mute", _jid(at)], muted) for at in range(self.chats)]
        if collection == ARCHIVED:
            archived = {"archiveChatAction": {"archived": True}}
            return [(["archive", _jid(at)], archived) for at in range(self.chats)]
        return []

    def reference(self, collection: str, snapshot: bytes) -> bytes:
        """Put a collection's snapshot on the media server; returns the serialized reference to it."""
        self.raw_size += len(snapshot)
        path, key, sealed = self._store(f"{STATE}{collection}", "App State", snapshot)
        blob = server_sync.ExternalBlobReference(
            mediaKey=key,
            directPath=f"{path}?ccb=1",
            fileSizeBytes=len(snapshot),
            fileSHA256=hashlib.sha256(snapshot).digest(),
            fileEncSHA256=hashlib.sha256(sealed).digest(),
        )
        return bytes(blob.SerializeToString())

    def fetch(self, path: str) -> bytes | None:
        """A file of the media server; None when there is none."""
        found = self.files.get(path)
        if found is not None:
            self.fetched.append(path)
        return found


def _jid(at: int) -> str:
    return f"49151{at:08}@s.whatsapp.net"
