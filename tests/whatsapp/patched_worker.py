"""The product's worker, with the stand-in's key written over the pinned one in this process' own memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

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


def main() -> None:
    from roundtrip.drivers.neonize import worker

    worker.main(before_connect=lambda: overwrite(bytes.fromhex(sys.argv[1])))


if __name__ == "__main__":
    main()
