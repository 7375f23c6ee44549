"""The Socket.IO side: who is connected under which key, and writing events to them.

A connecting socket goes `server` → `handshake` (its fields) → `access` (may it connect) → `peer` (its state) →
`registry` (the map) → delivery's replay. `messages` has the types on the wire, `metrics` what is counted, `engineio/`
everything that replaces a part of python-engineio or python-socketio.
"""
