"""What holds in all tests: an illegal change of a state is an error, not a logged refusal."""

from __future__ import annotations

from roundtrip.sockets import peer

peer.STRICT = True
