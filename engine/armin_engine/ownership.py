"""What root makes for an engine that runs as somebody else: it belongs to that one."""

from __future__ import annotations

import os
from pathlib import Path


def give(descriptor: int, example: Path) -> None:
    """Give a file to the owner of `example`, if we are root. Raises OSError.

    By its descriptor: that one could put something else under its name meanwhile.
    """
    if os.geteuid() == 0:
        status = example.stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)


def make_directory(directory: Path) -> None:
    """Make a directory for its owner alone, who is that of its parent, unless it is there. Raises OSError."""
    if directory.exists():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give(descriptor, directory.parent)
    finally:
        os.close(descriptor)
