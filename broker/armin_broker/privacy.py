"""Whether a file or directory is ours alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def openness(path: Path) -> str | None:
    """Why somebody else could read or replace what is in `path`, None if nobody could. Raises OSError."""
    status = path.stat()
    us = os.geteuid()
    if us != 0 and status.st_uid not in (us, 0):
        return f"{path} belongs to another user"
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        return f"{path} is open to others (mode {mode:04o}); make it private: chmod go= {path}"
    return None
