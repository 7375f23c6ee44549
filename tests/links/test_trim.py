from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from roundtrip.drivers.neonize.footprint import untouched_pages

ROOT = Path(__file__).resolve().parents[2]

SMAPS = """\
7f0000000000-7f0000100000 r-xp 00000000 fe:00 17 /lib/code.so
Rss: 1024 kB
Anonymous:             0 kB
7f0000100000-7f0000200000 r--p 00100000 fe:00 17 /lib/relocated.so
Anonymous:           512 kB
7f0000200000-7f0000300000 rw-p 00200000 fe:00 17 /lib/data.so
Anonymous:             0 kB
7f0000300000-7f0000400000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000400000-7f0000401000 r--p 00000000 fe:00 18 /lib/small.so
Anonymous:             0 kB
7f0000500000-7f0000600000 r--s 00000000 fe:00 19 /lib/shared
Anonymous:             0 kB
"""


def test_only_what_can_be_read_again_from_its_file() -> None:
    assert untouched_pages(SMAPS) == [(0x7F0000000000, 0x100000)]


def test_a_process_that_was_trimmed_goes_on() -> None:
    code = (
        "import json; from roundtrip.drivers.neonize.footprint import release_memory as trim; trim(); trim(); "
        "import sqlite3; print(json.dumps([1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "backend", check=True, timeout=30
    )
    assert run.stdout == "[1]\n"
