from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = "6"


@pytest.mark.slow
def test_no_bytes_break_a_parser(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sockets.parsers_fuzzer", SECONDS],
        cwd=tmp_path,  # where atheris leaves what breaks
        env={"PYTHONPATH": f"{root}:{root / 'backend'}", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = done.stdout + done.stderr
    tried = re.search(r"Done (\d+) runs", said)
    print(f"atheris tried {tried[1] if tried else 0} inputs")
    assert done.returncode == 0, said[-3000:]
    assert tried is not None
    assert int(tried[1]) > 1000
