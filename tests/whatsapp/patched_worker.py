"""The product's worker, with the stand-in's key written over the pinned one in this process' own memory.

With the name of a folder besides the key, it counts there what the Go library hands over to Python.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

PINNED = bytes.fromhex("142375574d0a587166aae71ebe516437c4a28b73e3695c6ce1f7f9545da8ee6b")


def overwrite(root: bytes) -> None:
    """Find the pinned key in the writable data of the loaded library and put `root` in its place."""
    found = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, *rest = line.split()
        if "w" not in rights or "neonize" not in rest[-1]:
            continue
        start, end = (int(edge, 16) for edge in span.split("-"))
        at = ctypes.string_at(start, end - start).find(PINNED)
        if at >= 0:
            ctypes.memmove(start + at, root, len(root))
            found += 1
    if found != 1:
        raise RuntimeError(f"the pinned key was found {found} times, not once")


def count_calls(folder: Path) -> None:
    """Have each call from Go counted, with its bytes: a file for each process and kind grows by a byte for each call,
    another by a byte for each byte (both sparse)."""
    from neonize.aioze import client

    totals, lock = Counter[str](), threading.Lock()

    def count(kind: str, make: Any, size: Any) -> Any:
        files = [
            os.open(folder / f"{kind}-{what}.{os.getpid()}", os.O_CREAT | os.O_WRONLY) for what in ("calls", "bytes")
        ]

        def wrap(function: Any) -> Any:
            def call(*args: Any) -> Any:
                with lock:
                    totals[kind] += 1
                    totals[kind + "-bytes"] += size(args)
                    os.ftruncate(files[0], totals[kind])
                    os.ftruncate(files[1], totals[kind + "-bytes"])
                return function(*args)

            return make(call)

        return wrap

    client.func_callback_bytes = count("event", client.func_callback_bytes, lambda args: args[2])
    client.func_callback_bytes2 = count("log", client.func_callback_bytes2, lambda args: args[1])


def main() -> None:
    from roundtrip.drivers.neonize import worker

    def before_connect() -> None:
        overwrite(bytes.fromhex(sys.argv[1]))
        if len(sys.argv) > 2:
            count_calls(Path(sys.argv[2]))

    worker.main(before_connect=before_connect)


if __name__ == "__main__":
    main()
