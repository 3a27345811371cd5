"""The Node client as tests run it: its compiled programs, or a clear word why they are not here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[1] / "clients" / "node"


def node() -> str:
    """The `node` command; skips the test where it is not there, but never in CI."""
    found = shutil.which("node")
    if found is None:
        _leave_out("Node is not here")
    return str(found)


def program(name: str) -> str:
    """A compiled program of the Node client's tests, `guests/main` for example."""
    return built(f"build/test/{name}.js")


def built(path: str) -> str:
    """A file that `make node` makes."""
    if not (CLIENT / path).exists():
        _leave_out("the Node client is not built: make node")
    return str(CLIENT / path)


def _leave_out(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{why}, and in CI nothing is left out")
    pytest.skip(why)
