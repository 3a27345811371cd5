"""The engine's end: SIGKILL of itself at the n-th passing of one point."""

from __future__ import annotations

import os
import signal

from armin.torture.orders import KillPoint, Switchboard


class Fate:
    """Counts the passings of one kill point."""

    def __init__(self, switchboard: Switchboard, die_at: KillPoint | None, passing: int) -> None:
        self._switchboard = switchboard
        self._die_at = die_at
        self._left = passing

    def has_come(self, point: KillPoint) -> bool:
        """Count a passing of `point`; whether this is the one to die at."""
        if point is not self._die_at:
            return False
        self._left -= 1
        return self._left == 0

    def die(self) -> None:
        """Here and now."""
        self._switchboard.killed = True
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    def at(self, point: KillPoint) -> None:
        """Pass `point`, or die there."""
        if self.has_come(point):
            self.die()
