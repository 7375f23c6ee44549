"""WhatsApp's binary XML: one node tree to bytes and back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from tests.whatsapp.tokens import tables

NIBBLES = "0123456789-.\0\0\0\0"
HEXES = "0123456789ABCDEF"


@dataclass(frozen=True)
class Jid:
    """`user@server`, with a device when it names one. `agent` 1 is a hidden (lid) user."""

    user: str
    server: str = "s.whatsapp.net"
    device: int = 0

    def __str__(self) -> str:
        device = f":{self.device}" if self.device else ""
        return f"{self.user}{device}@{self.server}"


SERVER = Jid("")


@dataclass
class Node:
    tag: str
    attrs: dict[str, str | Jid] = field(default_factory=dict)
    content: list[Node] | bytes | None = None

    def child(self, *path: str) -> Node | None:
        """The first descendant along `path`."""
        here: Node | None = self
        for tag in path:
            children = here.content if here is not None else None
            here = next((one for one in children if one.tag == tag), None) if isinstance(children, list) else None
        return here

    def text(self, name: str) -> str:
        return str(self.attrs.get(name, ""))


def encode(node: Node) -> bytes:
    """With every string spelt out: the reader does not mind."""
    return b"\0" + _node(node)


def _node(node: Node) -> bytes:
    out = _list(1 + 2 * len(node.attrs) + (node.content is not None)) + _binary(node.tag.encode())
    for name, value in node.attrs.items():
        out += _binary(name.encode()) + (_jid(value) if isinstance(value, Jid) else _binary(value.encode()))
    if isinstance(node.content, list):
        out += _list(len(node.content)) + b"".join(_node(child) for child in node.content)
    elif node.content is not None:
        out += _binary(node.content)
    return out


def _list(size: int) -> bytes:
    return bytes([248, size]) if size < 256 else bytes([249]) + size.to_bytes(2, "big")


def _binary(data: bytes) -> bytes:
    if len(data) < 256:
        return bytes([252, len(data)]) + data
    if len(data) < 1 << 20:
        return bytes([253]) + len(data).to_bytes(3, "big") + data
    return bytes([254]) + len(data).to_bytes(4, "big") + data


def _jid(jid: Jid) -> bytes:
    if jid.device:
        return bytes([247, 1 if jid.server == "lid" else 0, jid.device]) + _binary(jid.user.encode())
    return b"\xfa" + (_binary(jid.user.encode()) if jid.user else b"\0") + _binary(jid.server.encode())


def decode(data: bytes) -> Node:
    if data[0] & 2:
        return _Reader(zlib.decompress(data[1:])).node()
    return _Reader(data[1:]).node()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._single, self._double = tables()

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _size(self, tag: int) -> int:
        return 0 if tag == 0 else self._number(1 if tag == 248 else 2)

    def node(self) -> Node:
        size = self._size(self._byte())
        node = Node(_text(self._value()))
        for _ in range((size - 1) // 2):
            name = _text(self._value())
            value = self._value()
            node.attrs[name] = value if isinstance(value, Jid) else _text(value)
        if size % 2 == 0:
            tag = self._byte()
            if tag in (248, 249):
                node.content = [self.node() for _ in range(self._size(tag))]
            else:
                content = self._value(tag)
                node.content = content if isinstance(content, bytes) else str(content).encode()
        return node

    def _value(self, tag: int | None = None) -> str | bytes | Jid:
        tag = self._byte() if tag is None else tag
        if tag == 0:
            return ""
        if tag < 236:
            return self._single[tag]
        if tag < 240:
            return self._double[tag - 236][self._byte()]
        if tag in (252, 253, 254):
            return self._take(self._number({252: 1, 253: 3, 254: 4}[tag]))
        if tag in (251, 255):
            return self._packed(HEXES if tag == 251 else NIBBLES)
        if tag == 250:
            return Jid(_text(self._value()), _text(self._value()))
        if tag == 247:
            agent, device = self._byte(), self._byte()
            return Jid(_text(self._value()), "lid" if agent == 1 else "s.whatsapp.net", device)
        raise ValueError(f"binary XML tag {tag} is not known here")

    def _packed(self, alphabet: str) -> str:
        start = self._byte()
        pairs = self._take(start & 127)
        text = "".join(alphabet[pair >> 4] + alphabet[pair & 15] for pair in pairs)
        return text[:-1] if start & 128 else text


def _text(value: str | bytes | Jid) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
