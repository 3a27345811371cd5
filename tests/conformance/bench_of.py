"""Benches for the suite's own engines: with the power to break, end and start them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from armin.conformance import cases
from armin.conformance.bench import Bench
from armin.target import find_target
from harness import Engine

TIMEOUT_S = 60.0  # for a reply on a machine that is busy with other tests
VECTORS = cases.load(cases.default_directory())
ENGINE_CASES = {case.id: case for case in VECTORS.engine}
CLIENT_CASES = {case.id: case for case in VECTORS.client}


class Power:
    """What the suite can do to an engine of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _set_file_size_max(self, size: int | None) -> None:
        _, hard = resource.prlimit(self._engine.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._engine.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def fail_writes(self) -> None:
        """No file may grow: writing to the WAL fails in the kernel (EFBIG)."""
        self._set_file_size_max(1)

    def allow_writes(self) -> None:
        """End that."""
        if self._engine.process is not None and self._engine.process.poll() is None:
            self._set_file_size_max(None)

    def terminate(self) -> None:
        """SIGTERM, to the end."""
        assert self._engine.stop() == 0

    def kill(self) -> None:
        """SIGKILL."""
        self._engine.kill()

    def start(self) -> None:
        """On the same directory."""
        self._engine.start()


@contextmanager
def running_engine(directory: Path, *options: str) -> Iterator[Engine]:
    """An engine on a new directory, stopped at the end if it still runs; it must not have met a bug."""
    engine = Engine(directory, *options).start()
    try:
        yield engine
    finally:
        if engine.process is not None and engine.process.returncode is None:
            engine.stop()
    assert "Traceback" not in engine.errors()


@contextmanager
def bench_of(engine: Engine, target: str, run: str) -> Iterator[Bench]:
    """A bench with all power over this engine."""
    with Bench(find_target(target, {}), TIMEOUT_S, run, Power(engine)) as bench:
        yield bench
