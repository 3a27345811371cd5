"""How much one turn of the loop takes on: all that there is for one peer, little where several share.

A full turn is good for whoever fills it, as it makes one commit of many writes, and bad for everybody else,
who waits for its end. So while several peers are at it, turns are kept so short that what is done besides the
commit takes about as long as the commit: nobody waits much longer than for the disk.
"""

from __future__ import annotations

from typing import Final

CROWDED_MS: Final = 1000  # from when two peers were last seen in one turn
COMMANDS_MIN: Final = 8
WORK_MS_MIN: Final = 0.5  # of work in a turn, however fast the disk
COMMAND_BYTES: Final = 1 << 10  # of commands that arrive, for each that a short turn takes
INTAKE_MS: Final = 20.0  # of a turn spent on looking at what has arrived; what is left waits for the next
INTAKE_MS_MIN: Final = 2.0
RENDER_MS: Final = 20.0  # of a turn spent on reads; at least one is rendered
RENDER_MS_MIN: Final = 1.0


class Turns:
    """The size of the next turn: halved after one that took too long, growing again step by step."""

    def __init__(self, commands_max: int, bytes_max: int) -> None:
        self._commands_max = commands_max
        self._bytes_max = bytes_max
        self._limit = commands_max
        self._crowded_until = float("-inf")
        self.crowded = False

    @property
    def commands(self) -> int:
        """Commands that the next turn may take."""
        return self._limit

    @property
    def bytes(self) -> int:
        """Bytes of commands after which it takes no more."""
        return min(self._bytes_max, self._limit * COMMAND_BYTES) if self.crowded else self._bytes_max

    @property
    def intake_ms(self) -> float:
        """Milliseconds of it that commands may take to be looked at; at least one is."""
        return INTAKE_MS_MIN if self.crowded else INTAKE_MS

    @property
    def render_ms(self) -> float:
        """Milliseconds of it that reads may take."""
        return RENDER_MS_MIN if self.crowded else RENDER_MS

    def ended(self, now: float, peers: int, took_ms: float, commit_ms: float) -> None:
        """A turn for so many peers is over; the last commit took `commit_ms`."""
        if peers > 1:
            self._crowded_until = now + CROWDED_MS
        self.crowded = now < self._crowded_until
        if not self.crowded:
            self._limit = self._commands_max
        elif took_ms > 2 * commit_ms + WORK_MS_MIN:
            self._limit = max(COMMANDS_MIN, self._limit // 2)
        else:
            self._limit = min(self._commands_max, self._limit + COMMANDS_MIN)
