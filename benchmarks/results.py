"""The results' file: rows as they were measured last, and the runs that measured them.

    {"runs": {"A": {date, commit, dirty, quick, command, machine, versions, sync_ms}},
     "rows": [{number, title, run: "A", date, seconds, missing, failed, setting, checks, sides, notes}]}

A run that measures some rows replaces these and leaves the others, so each row names its run. Dates are
ISO 8601, UTC; `seconds` is what the whole case took.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Fields = dict[str, Any]

_NUMBER = re.compile(r"(\d*)(.*)", re.DOTALL)


def place(number: str) -> tuple[bool, int, str]:
    """Where a row stands in the report: 1, 2, 2b, 3, ..., then those that are letters."""
    found = _NUMBER.match(number)
    assert found is not None, "it matches everything"
    return not found[1], int(found[1] or 0), found[2]


def _names() -> Iterator[str]:
    """A, B, ..., Z, AA, AB, ..."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_uppercase, repeat=length))


class Results:
    """The rows of a report and the runs that they come from."""

    def __init__(self, runs: dict[str, Fields] | None = None, rows: list[Fields] | None = None) -> None:
        self.runs = runs or {}
        self._rows = {row["number"]: row for row in rows or ()}

    @property
    def rows(self) -> list[Fields]:
        """In the report's order."""
        return sorted(self._rows.values(), key=lambda row: place(row["number"]))

    def begin(self, run: Fields) -> str:
        """Take in a run; returns the name by which its rows call it."""
        name = next(name for name in _names() if name not in self.runs)
        self.runs[name] = run
        return name

    def put(self, row: Fields) -> None:
        """Take in a row, in place of the one with its number; runs without rows are forgotten."""
        self._rows[row["number"]] = row
        used = {each["run"] for each in self._rows.values()}
        self.runs = {name: run for name, run in self.runs.items() if name in used}

    @classmethod
    def read(cls, path: Path) -> Results:
        """What a file holds; nothing where there is none."""
        if not path.exists():
            return cls()
        stored = json.loads(path.read_text("utf-8"))
        return cls(stored["runs"], stored["rows"])

    def write(self, path: Path) -> None:
        """Put it all into a file, which holds either what it held or all of this."""
        new = path.with_name(f"{path.name}.new")
        text = json.dumps({"runs": self.runs, "rows": self.rows}, indent=1, ensure_ascii=False)
        new.write_text(text + "\n", "utf-8")
        new.replace(path)
