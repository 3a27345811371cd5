"""Fixtures of the conformance tests."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import pytest


@pytest.fixture(scope="module")
def free_ports() -> int:
    """The first of three ports in a row at which nobody listens; each test process looks elsewhere first."""
    for port in range(21_000 + 3 * (os.getpid() % 3_000), 60_000, 3):
        with ExitStack() as stack:
            try:
                for number in range(port, port + 3):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
        return port
    raise AssertionError("no free ports")
