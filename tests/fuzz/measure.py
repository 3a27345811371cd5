"""What a process holds, from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def rss(pid: int | str = "self") -> int:
    """Resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int | str = "self") -> int:
    """Open file descriptors."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
