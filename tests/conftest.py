"""Fixtures that every test may use."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from harness import Engine, Peer, Sockets

# An example may take long, and so may making one, where the machine is busy with other tests.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores SIGINT, and so would every process that the Ctrl-C tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup, and it is the same with SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a path short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="armin-") as directory:
        yield Path(directory)


@pytest.fixture
def engine(short_dir: Path) -> Iterator[Engine]:
    """A running engine on a new directory."""
    engine = Engine(short_dir / "e").start()
    yield engine
    if engine.process is not None and engine.process.returncode is None:
        engine.stop()


@pytest.fixture
def peer(engine: Engine) -> Iterator[Peer]:
    """A peer of the running engine."""
    with engine.peer() as peer:
        yield peer


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Sockets within this process."""
    with Sockets() as sockets:
        yield sockets
