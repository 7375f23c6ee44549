"""A link that flaps is told once as flapping, not each time it falls and rises. Pure."""

from __future__ import annotations

from backend.links.backoff import Budget


class Damper:
    """Watches one connection. `limit` losses within `window` seconds are still reported one by one."""

    def __init__(self, limit: int, window: float) -> None:
        self._losses = Budget(limit, window)
        self.online = False
        self.flaps = 0
        """Times that the connection was lost and came back within the window."""
        self.flapping = False

    def lost(self, now: float) -> bool:
        """The connection is gone; True when with this the link begins to flap."""
        if not self.online:
            return False
        self.online = False
        if self._losses.spend(now) or self.flapping:
            return False
        self.flapping = True
        return True

    def came(self, now: float) -> bool:
        """The connection stands; True when it is back soon after a loss."""
        if self.online:
            return False
        self.online = True
        back = self._losses.spent(now) > 0
        self.flaps += back
        return back

    def calm(self) -> None:
        """It stayed as it is for long enough: begin anew."""
        self.flapping = False
        self._losses.clear()

    def reset(self) -> None:
        """The session ended for good."""
        self.calm()
        self.online = False
