"""The Socket.IO side: who is connected under which key, and writing events to them.

A connecting socket goes `server` → `handshake` (its fields) → `access` (may it connect) → `peer` (its state) →
`registry` (the map) → delivery's replay. `messages` has the types on the wire, `metrics` what is counted, `engineio/`
everything that replaces a part of python-engineio or python-socketio.
"""

from __future__ import annotations

import sys


def _load_without_clients() -> None:
    """Import python-engineio while `requests` cannot be: its package loads its own clients too, one of which would
    import that (3 MB, and a tenth of a second). It is optional there, and a server has no use for it."""
    if "engineio" in sys.modules or "requests" in sys.modules:
        return
    sys.modules["requests"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import engineio  # noqa: F401
    finally:
        del sys.modules["requests"]


_load_without_clients()
