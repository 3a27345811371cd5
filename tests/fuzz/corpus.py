"""What was found: the shortest frame for each distinct outcome, and frames that once broke something.

`corpus/commands.txt` has a line for each outcome, the frame in hexadecimal and then what came of it;
`corpus/broken-*.bin` are frames that broke the invariant. Both are played again by every run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).with_name("corpus")
_COMMANDS: Final = DIRECTORY / "commands.txt"
_KEPT_BYTES_MAX: Final = 512  # a longer frame is made again by its seed


class Corpus:
    """Frames by what they came to."""

    def __init__(self) -> None:
        self.by_outcome: dict[str, bytes] = {}
        for line in _COMMANDS.read_text("utf-8").splitlines() if _COMMANDS.exists() else ():
            packed, _, outcome = line.partition(" ")
            self.by_outcome[outcome] = bytes.fromhex(packed)

    @property
    def frames(self) -> list[bytes]:
        """All of them, those that once broke something first."""
        return [
            *(path.read_bytes() for path in sorted(DIRECTORY.glob("broken-*.bin"))),
            *self.by_outcome.values(),
        ]

    def learn(self, outcome: str, frame: bytes) -> bool:
        """Keep a frame that came to something new; whether it did."""
        if outcome in self.by_outcome or len(frame) > _KEPT_BYTES_MAX:
            return False
        self.by_outcome[outcome] = frame
        return True

    def save(self) -> None:
        """Write what was learnt."""
        lines = (f"{frame.hex()} {outcome}\n" for outcome, frame in sorted(self.by_outcome.items()))
        _COMMANDS.write_text("".join(lines), "utf-8")


def keep_broken(frame: bytes) -> Path:
    """Save a frame that broke the invariant, to be played again from now on."""
    path = DIRECTORY / f"broken-{hashlib.sha256(frame).hexdigest()[:12]}.bin"
    path.write_bytes(frame)
    return path
