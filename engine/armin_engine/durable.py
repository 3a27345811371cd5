"""Making durable what only the page cache may hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 20  # read and written back at a time


def rewrite(path: Path) -> None:
    """Write a file's bytes over themselves and sync it; nothing where there is none. Raises OSError.

    A sync alone is not enough for what a killed process left: where an earlier sync failed, the kernel may
    believe those pages clean and never write them again. Nobody else may write to the file meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        offset = 0
        while data := os.pread(descriptor, CHUNK_BYTES, offset):
            offset += os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
