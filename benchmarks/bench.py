"""The run: which cases there are, how large they are, where their files go."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.rows import Row

MESSAGE_BYTES: Final = 200
TEXT: Final = ("The quick brown fox jumps over the lazy dog. " * 5)[:MESSAGE_BYTES]
SYNC: Final = "synchronous=FULL (WAL), fdatasync before each reply"


class Missing(Exception):
    """A peer is not installed here; says which and how to get it."""


@dataclass(frozen=True)
class Bench:
    """One run. `root` is where every side keeps its files, so all sync to one disk."""

    root: Path
    quick: bool = False

    @property
    def rounds(self) -> int:
        """Pairs that count."""
        return 3 if self.quick else 7

    def size(self, full: int, quick: int) -> int:
        """A number of operations, or of seconds, for this kind of run."""
        return quick if self.quick else full

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """A new directory on the disk that is measured, removed afterwards. Its path is short (sockets)."""
        path = Path(tempfile.mkdtemp(prefix="b", dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


Run = Callable[[Bench], Row]


@dataclass(frozen=True)
class Case:
    """One row of the report: `run` measures it; where it raises Missing the row says why it is empty."""

    number: str
    title: str
    run: Run

    def measure(self, bench: Bench) -> Row:
        """The row."""
        try:
            return self.run(bench)
        except Missing as missing:
            return Row(self.number, self.title, missing=str(missing))


CASES: dict[str, Case] = {}


def case(number: str, title: str) -> Callable[[Callable[[Bench, Row], None]], Callable[[Bench, Row], None]]:
    """Register a function that fills in a row."""

    def register(fill: Callable[[Bench, Row], None]) -> Callable[[Bench, Row], None]:
        def run(bench: Bench) -> Row:
            row = Row(number, title)
            fill(bench, row)
            return row

        assert number not in CASES, number
        CASES[number] = Case(number, title, run)
        return fill

    return register
