"""What was reported as stored is there after the process was killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from roundtrip.identity import BotKey
from tests.outbox.sqlite.helpers import Open
from tests.support.drafts import assert_balanced

_CHILD = """
import asyncio, sys
from pathlib import Path
from roundtrip.outbox.sqlite.outbox import SqliteOutbox
from roundtrip.identity import BotKey
from tests.support.drafts import CONNECTED, Clock, draft, end

async def main():
    outbox, clock = SqliteOutbox(Path(sys.argv[1])), Clock()
    await outbox.start()
    def done(event):
        sys.stdout.write(f"{event.key.bot_id} {event.seq} {event.id}\\n")
        sys.stdout.flush()
        if event.seq % 2:
            outbox.resolve(end(event))
    while True:
        for bot in range(20):
            outbox.append(draft(CONNECTED, clock, BotKey("user", str(bot))), done)
        await asyncio.sleep(0.002)

asyncio.run(main())
"""


async def test_reported_events_survive_kill_9(open_outbox: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    reported: dict[str, dict[int, str]] = {str(bot): {} for bot in range(20)}
    for restart in range(3):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, str(folder), stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
        assert child.stdout is not None
        for _ in range(500 + 777 * restart):
            bot, seq, event_id = (await child.stdout.readline()).decode().split()
            reported[bot][int(seq)] = event_id
        child.kill()
        for line in (await child.stdout.read()).decode().splitlines():
            if len(line.split()) == 3 and len(line.split()[2]) == 36:
                bot, seq, event_id = line.split()
                reported[bot][int(seq)] = event_id
        await child.wait()
        outbox = await open_outbox()
        for bot, events in reported.items():
            entries = await outbox.ledger(BotKey("user", bot), 0, 10**6)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            stored = {entry.seq: entry.id for entry in entries}
            assert events.items() <= stored.items()
        assert_balanced(outbox.totals())
        await outbox.close()
