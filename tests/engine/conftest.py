"""Engines on files of their own, closed when the test ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from armin_engine import Armin

Open = Callable[..., Armin]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "armin.db"


@pytest.fixture
def open_engine(path: Path) -> Iterator[Open]:
    """Opens the file of the test, as often as asked."""
    opened = []

    def opener(where: str | Path = path, **options: Any) -> Armin:
        armin = Armin(where, **options)
        opened.append(armin)
        return armin

    yield opener
    for armin in opened:
        armin.close()


@pytest.fixture
def armin(open_engine: Open) -> Armin:
    return open_engine()


@pytest.fixture
def foreign(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file of the test; it commits each statement."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()
