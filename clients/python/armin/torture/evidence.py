"""Evidence files: one JSON object a line, each handed to the system whole: a kill loses none of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

GUEST: Final = "guest-"  # in front of the role of a process that another command runs

Record = dict[str, Any]


class EvidenceFile:
    """Appends records; several threads may. `at` is seconds of the system-wide monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, what: str, /, **fields: Any) -> None:
        """One more record: `what` it is, `at` which time, and more."""
        record = {"what": what, "at": round(time.monotonic(), 6), **fields}
        os.write(self._file, json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def records(path: Path) -> Iterator[Record]:
    """The records of one file, in order; a torn last line was never written."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def all_records(directory: Path, role: str) -> Iterator[tuple[str, Record]]:
    """Every record of all lives of one role's processes, guests too, with the file's name; lives in order."""
    for path in (*lives(directory, role), *lives(directory, GUEST + role)):
        for record in records(path):
            yield path.stem, record


def lives(directory: Path, role: str) -> list[Path]:
    """The files of one role, the first life first."""
    return sorted(directory.glob(f"{role}-*.jsonl"), key=lambda path: int(path.stem.rpartition("-")[2]))


def life_file(directory: Path, role: str, life: int) -> Path:
    """Where the process of this role and life writes."""
    return directory / f"{role}-{life}.jsonl"
