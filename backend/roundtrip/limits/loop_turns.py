"""How much of one kind of work an event loop does in one turn, so that a thousand clients at once delay no other."""

from __future__ import annotations

import asyncio
from collections import deque


class LoopTurns:
    """Lets `per_turn` callers through in each turn of the running loop; the others wait, first come, first served.

    Where a crowd ends, those that were let through and as many newcomers may share a turn.
    """

    __slots__ = ("_left", "_per_turn", "_scheduled", "_waiting")

    def __init__(self, per_turn: int) -> None:
        self._per_turn = self._left = per_turn
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def take(self) -> None:
        """Return at once while this turn has room, else in a later one."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _next_turn(self) -> None:
        waiting, left = self._waiting, self._per_turn
        while waiting and left:
            turn = waiting.popleft()
            if not turn.done():  # or its caller was cancelled
                turn.set_result(None)
                left -= 1
        self._scheduled = left < self._per_turn
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._next_turn)
            left = 0  # those that were let through run in the turn that begins: who comes in it waits behind them
        self._left = left
