"""Fixtures of the conformance tests."""

from __future__ import annotations

import pytest

import harness


@pytest.fixture(scope="module")
def free_ports() -> int:
    """The first of three ports in a row at which nobody listens."""
    return harness.free_ports()
