"""Whether the files that were opened still stand under their names.

SQLite goes on writing into a file that was deleted or replaced, and nobody will ever read what it holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class Standing:
    """Files as they stood when this was made. While they are open, their inodes are not given out again."""

    __slots__ = ("_noted",)

    def __init__(self, files: Sequence[Path]) -> None:
        self._noted = [(os.fspath(file), inode(file)) for file in files]

    def fallen(self) -> str | None:
        """The first file that was deleted or replaced, None while all stand. Raises OSError."""
        for file, noted in self._noted:
            if inode(file) != noted:
                return file
        return None


def inode(file: str | os.PathLike[str] | int) -> tuple[int, int] | None:
    """What tells one file from another, whatever its name; None where there is none. Raises OSError."""
    try:
        found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
