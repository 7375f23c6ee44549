"""The socket map: which sockets a key has, and why it has none. Its only owner."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final, NamedTuple

import msgspec

from roundtrip.clock import rfc3339
from roundtrip.delivery.wire import NOWHERE, Miss, Whereabouts
from roundtrip.identity import BotKey
from roundtrip.outbox.records import MissReason
from roundtrip.sockets.peer import Peer

JUST_DISCONNECTED: Final = 30.0
"""Seconds after a disconnect in which a miss is `just_disconnected`."""

KEY_RETENTION: Final = 86_400.0
"""Seconds for which the time of a key's last disconnect is kept."""

REMEMBERED_KEYS: Final = 20_000
"""The most keys without a socket whose last disconnect is kept."""

REMEMBERED_MISSES: Final = 100
"""The most missed attempts that are kept for the debug page."""

NAMED_KEYS: Final = 16
"""The most keys that a miss names, of those under which the same user is connected."""

_NO_PEERS: Final[dict[str, Peer]] = {}


class SocketView(msgspec.Struct, frozen=True, rename="camel"):
    """One socket; `age` is in seconds, `backlog` in bytes."""

    sid: str
    transport: str
    age: float
    acks: bool
    live: bool
    backlog: int


class KeyView(msgspec.Struct, frozen=True, rename="camel"):
    user_id: str
    bot_id: str
    sockets: tuple[SocketView, ...]


class MissView(msgspec.Struct, frozen=True, rename="camel"):
    """One missed attempt; `at` is RFC 3339 UTC, `looked_for` the key that had no socket and
    `connected` the bot ids under which the same user had some."""

    at: str
    type: str
    reason: MissReason
    event_id: str
    looked_for: tuple[str, str]
    connected: tuple[str, ...]


class Totals(msgspec.Struct, frozen=True, rename="camel"):
    sockets: int
    mapped_keys: int
    users: int
    remembered_keys: int


class RegistryView(msgspec.Struct, frozen=True, rename="camel"):
    """The whole map at one moment; the newest miss first."""

    totals: Totals
    keys: tuple[KeyView, ...]
    misses: tuple[MissView, ...]


class Others(NamedTuple):
    """How many sockets other nodes have: of one key, and of its user."""

    of_key: int = 0
    of_user: int = 0


class Registry:
    """Maps a key to the set of its sockets. Not thread-safe: it lives on the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.has_link: Callable[[BotKey], bool] = lambda _key: False
        """Whether a key has a link of its own; set by `app.py`, since sockets know no links."""
        self._peers: dict[BotKey, dict[str, Peer]] = {}
        self._bots: dict[str, set[str]] = {}
        self._left: OrderedDict[BotKey, float] = OrderedDict()
        self._misses: deque[MissView] = deque(maxlen=REMEMBERED_MISSES)
        self._count = 0
        self.on_missed: Callable[[MissView], None] = lambda _miss: None
        """Called with each missed attempt; set by the console, as is `on_changed`."""
        self.on_changed: Callable[[Peer, bool], None] = lambda _peer, _mapped: None
        """Called when a socket was mapped or unmapped."""
        self.on_count: Callable[[BotKey], None] = lambda _key: None
        """Called when the number of a key's sockets changed; set where other nodes are to know."""
        self.others: Callable[[BotKey], AbstractAsyncContextManager[Others]] = lambda _key: nullcontext(Others())
        """What other nodes have, while no other socket of the user is mapped here; set where there are others."""

    def __len__(self) -> int:
        return self._count

    def add(self, peer: Peer) -> None:
        """Map a socket under its key, beside the others."""
        key = peer.key
        peers = self._peers.setdefault(key, {})
        self._count += peer.sid not in peers
        peers[peer.sid] = peer
        self._bots.setdefault(key.user_id, set()).add(key.bot_id)
        self._left.pop(key, None)
        self.on_changed(peer, True)
        self.on_count(key)

    def remove(self, peer: Peer) -> bool:
        """Unmap this very socket, and no other of the same sid; False if it is not mapped."""
        key = peer.key
        peers = self._peers.get(key, _NO_PEERS)
        if peers.get(peer.sid) is not peer:
            return False
        del peers[peer.sid]
        self._count -= 1
        if not peers:
            del self._peers[key]
            bots = self._bots[key.user_id]
            bots.discard(key.bot_id)
            if not bots:
                del self._bots[key.user_id]
            self._remember(key)
        self.on_changed(peer, False)
        self.on_count(key)
        return True

    def of(self, key: BotKey) -> Collection[Peer]:
        """The key's sockets, as a live view; empty when it has none."""
        return self._peers.get(key, _NO_PEERS).values()

    def all(self) -> list[Peer]:
        return [peer for peers in self._peers.values() for peer in peers.values()]

    def keys_of(self, user_id: str) -> tuple[str, ...]:
        """The bot ids under which a user has sockets."""
        return tuple(sorted(self._bots.get(user_id, ())))

    @property
    def mapped_keys(self) -> int:
        return len(self._peers)

    def by_transport(self) -> dict[str, int]:
        """Connected sockets by transport."""
        return Counter(peer.transport for peer in self.all())

    def why_missing(self, key: BotKey, elsewhere: Whereabouts = NOWHERE) -> Miss:
        """Why a key has no socket, here or on another node. A user who is connected under another bot id comes first:
        that may be a bug."""
        bots = sorted({*self.keys_of(key.user_id), *elsewhere.bots})
        others = tuple(bot for bot in bots if bot != key.bot_id)
        if others:
            wrong = self._built_wrongly(key, others)
            return Miss(MissReason.KEY_MISMATCH if wrong else MissReason.OTHER_BOT_CONNECTED, others[:NAMED_KEYS])
        left = self._left.get(key)
        ages = [] if left is None else [self._clock() - left]
        if elsewhere.left is not None:
            ages.append(elsewhere.left)
        age = min(ages, default=KEY_RETENTION + 1)
        if age > KEY_RETENTION:
            return Miss(MissReason.NEVER_CONNECTED)
        return Miss(MissReason.JUST_DISCONNECTED if age <= JUST_DISCONNECTED else MissReason.DISCONNECTED)

    def _built_wrongly(self, key: BotKey, others: Sequence[str]) -> bool:
        """Whether somebody made a key wrongly: a user's id stands where a bot's belongs, or a page is connected under a
        bot id that was never linked. A user with two bots and one page open did neither."""
        user = key.user_id
        return user in (key.bot_id, *others) or not all(self.has_link(BotKey(user, bot)) for bot in others)

    def missed(self, key: BotKey, event: str, event_id: str, miss: Miss) -> None:
        """Keep a missed attempt for the debug page."""
        now = rfc3339(time.time_ns() // 1_000_000 / 1000)
        view = MissView(now, event, miss.reason, event_id, (key.user_id, key.bot_id), miss.keys)
        self._misses.appendleft(view)
        self.on_missed(view)

    def mapped(self) -> Iterable[BotKey]:
        """The keys that have a socket, the longest mapped first."""
        return self._peers

    @property
    def totals(self) -> Totals:
        return Totals(self._count, len(self._peers), len(self._bots), len(self._left))

    def key_view(self, key: BotKey) -> KeyView:
        """One key's sockets; none when it has none."""
        now = self._clock()
        return KeyView(
            key.user_id,
            key.bot_id,
            tuple(
                SocketView(p.sid, p.transport, round(now - p.connected_at, 3), p.must_ack, p.live, p.backlog)
                for p in self.of(key)
            ),
        )

    def view(self) -> RegistryView:
        """A copy for the debug page and `/debug/sockets`."""
        return RegistryView(self.totals, tuple(map(self.key_view, self._peers)), tuple(self._misses))

    def _remember(self, key: BotKey) -> None:
        """Keep when a key's last socket disconnected; the oldest are dropped by age and by number."""
        now = self._clock()
        left = self._left
        left[key] = now
        left.move_to_end(key)
        while left:
            oldest = next(iter(left))
            if len(left) <= REMEMBERED_KEYS and now - left[oldest] <= KEY_RETENTION:
                break
            del left[oldest]
