"""Commands on links of other nodes: asked by a row in the table `commands`, carried out by the link's owner.

The owner is told by a signal, and looks by itself when one was lost. A command follows its link to another owner until
one has taken it up; it is never taken up twice. The asker waits for at most `LIMIT` seconds: a command that nobody has
taken up by then is withdrawn and was not carried out, and of one that was taken up the end is not known.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal, Protocol

import msgspec
import structlog

from roundtrip.cluster.tables import Tables
from roundtrip.errors import RoundtripError
from roundtrip.identity import BotKey
from roundtrip.links.reasons import LinkError
from roundtrip.links.storage import StoreError
from roundtrip.telemetry import redaction

log = structlog.get_logger(__name__)

LIMIT: Final = 10.0
"""Seconds that an asker waits."""

POLL: Final = 0.25
"""Seconds between two looks for answers whose signal may have been lost."""

RETRY_AFTER: Final = 5.0
TOPIC: Final = "wanted"

_ASK: Final = (
    "INSERT INTO commands (id, user_id, bot_id, command, asker, ends) "
    "VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6)) ON CONFLICT (id) DO NOTHING"
)
_ANSWERS: Final = "SELECT id, answer FROM commands WHERE id = ANY($1::text[]) AND answer IS NOT NULL"
_WITHDRAW: Final = "DELETE FROM commands WHERE id = $1 RETURNING taken_by"
_ANSWER: Final = "UPDATE commands SET answer = $2 WHERE id = $1"
_FORGET: Final = "DELETE FROM commands WHERE ends < clock_timestamp() - interval '60 seconds'"


class Wish(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller wants of a link. `argument` is a start's phone number, or a simulated phone's action."""

    what: Literal["start", "logout", "simulate"]
    argument: str | None = None
    traceparent: str | None = None


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Empty when it was done."""

    code: str | None = None
    message: str = ""
    retry_after: float | None = None


class Sender(Protocol):
    """As `Signals`."""

    def send(self, nodes: Iterable[str], topic: str) -> None: ...


_encode = msgspec.json.Encoder().encode
_decode_wish = msgspec.json.Decoder(Wish).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class Commands:
    """One node's, as asker and as owner. `run` as a task; `look` when something may have come."""

    def __init__(self, tables: Tables, signals: Sender, carry_out: Callable[[BotKey, Wish], Awaitable[None]]) -> None:
        """`carry_out` raises `RoundtripError`, which is the asker's answer."""
        self._tables = tables
        self._node = tables.lease.node_id
        self._signals = signals
        self._carry_out = carry_out
        self._asked: dict[str, asyncio.Future[_Answer]] = {}
        self._working: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.accepting = True
        """False: what comes is left to the next owner."""

    def look(self) -> None:
        """Something may have come: a command, or an answer."""
        self._wake.set()

    async def ask(self, owner: str, key: BotKey, wish: Wish) -> None:
        """Have a link's owner do it. Raises `LinkError` as the link service would."""
        reply: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        number = uuid.uuid4().hex
        self._asked[number] = reply
        try:
            await self._tables.read(_ASK, number, *key, _encode(wish).decode(), self._node, LIMIT)
            self._signals.send([owner], TOPIC)
            self._wake.set()
            try:
                answer = await asyncio.wait_for(reply, LIMIT)
            except TimeoutError:
                answer = None
        finally:
            del self._asked[number]
            taken = await self._withdraw(number)
        if answer is None:
            log.warning("command_not_answered", what=wish.what, owner=owner, taken_by=taken)
            raise LinkError("store_unavailable", "This link's server does not answer; try again soon.", RETRY_AFTER)
        if answer.code is not None:
            raise LinkError(answer.code, answer.message, answer.retry_after)

    async def _withdraw(self, number: str) -> str | None:
        """Delete a command; who had taken it up."""
        try:
            rows = await self._tables.read(_WITHDRAW, number)
        except StoreError:
            return None  # `forget` deletes it later
        return rows[0][0] if rows else None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(POLL if self._asked else None):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
                try:
                    await self._take_up()
                    await self._collect()
                except StoreError:
                    await asyncio.sleep(POLL)  # it is logged; what waits is looked at again
                    if self._asked:
                        self._wake.set()
        finally:
            for task in self._working:
                task.cancel()

    async def _take_up(self) -> None:
        if not self.accepting:
            return
        for number, user_id, bot_id, wish, asker in await self._tables.fenced("SELECT * FROM take_commands_1($1, $2)"):
            work = self._work(number, BotKey(user_id, bot_id), _decode_wish(wish), asker)
            task = asyncio.create_task(work, name="command")
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def _work(self, number: str, key: BotKey, wish: Wish, asker: str) -> None:
        answer = _Answer()
        try:
            await self._carry_out(key, wish)
        except RoundtripError as error:
            answer = _Answer(error.code, error.message, error.retry_after)
        except Exception as error:  # noqa: BLE001  whatever it was, the asker is answered
            log.error("command_failed", what=wish.what, error=redaction.message_of(error))
            answer = _Answer("internal_error", "An internal error occurred; it has been logged.")
        try:
            await self._tables.execute(_ANSWER, number, _encode(answer).decode())
        except StoreError:
            return  # the asker waits in vain
        self._signals.send([asker], TOPIC)

    async def _collect(self) -> None:
        if not self._asked:
            return
        for number, answer in await self._tables.read(_ANSWERS, list(self._asked)):
            reply = self._asked.get(number)
            if reply is not None and not reply.done():
                reply.set_result(_decode_answer(answer))

    async def forget(self) -> None:
        """Delete what nobody waits for any more."""
        await self._tables.execute(_FORGET)

    async def drained(self) -> None:
        """Return once what was taken up is done."""
        while self._working:
            await asyncio.wait(self._working)
