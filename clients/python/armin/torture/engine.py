"""A real engine under torture: started, killed, paused, cut from power, its disk made to fail."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from armin.torture import vfs
from armin.torture.orders import Fault, KillPoint, Orders, Sabotage, Switchboard
from armin.torture.shadow import CutReport, Shadow
from armin_engine import Armin

__all__ = ["CutReport", "Fault", "KillPoint", "Sabotage", "TorturedEngine"]

STOP_S: Final = 90.0  # a stop that takes longer is a failure
LAST_WORDS_BYTES: Final = 2_000  # of the log, in the error for an engine that did not start


class TorturedEngine:
    """`armin serve DIRECTORY` as a process that can be broken in every way.

    Args:
        directory: the data directory, made if absent. Its file is nobody else's to change meanwhile.
        evidence: a directory for the engine's log, its trace, and the shadow of its disk.
        sabotage: what is broken in it on purpose, from its next start on.
        options: further arguments of `armin serve`.
        keep_traces: keep the traces of all incarnations; they grow with every write.
    """

    def __init__(
        self,
        directory: Path,
        evidence: Path,
        *,
        sabotage: frozenset[Sabotage] = frozenset(),
        options: Sequence[str] = (),
        keep_traces: bool = False,
    ) -> None:
        self.directory = directory
        self.evidence = evidence
        self.sabotage = sabotage
        self.why_no_cuts = vfs.why_not()  # why files cannot be watched here; None where they can
        self._options = tuple(options)
        self._keep_traces = keep_traces
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        evidence.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = Path(os.path.realpath(directory / "armin.db"))
        self._switchboard = Switchboard(evidence / "engine.switchboard")
        self._switchboard.fault = None
        self._process: subprocess.Popen[bytes] | None = None
        self._incarnation = 0
        self._die_at: KillPoint | None = None
        if not self._database.exists():
            Armin(self._database).close()
        self._shadow = Shadow(evidence / "disk", self._database) if self.can_cut else None

    @property
    def can_cut(self) -> bool:
        """Whether power cuts and faults are possible here."""
        return self.why_no_cuts is None

    @property
    def points(self) -> tuple[KillPoint, ...]:
        """The kill points that can be come to here."""
        return tuple(point for point in KillPoint if self.can_cut or not point.in_files)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that are possible here."""
        return tuple(Fault) if self.can_cut else ()

    @property
    def trace(self) -> Path:
        """The trace of the present incarnation."""
        return self.evidence / f"trace-{self._incarnation}"

    @property
    def log(self) -> Path:
        """What the engine says, in all its incarnations."""
        return self.evidence / "engine.log"

    # --- life ---------------------------------------------------------------------------------------

    def start(
        self, *, die_at: KillPoint | None = None, passing: int = 1, timeout: float = 30
    ) -> KillPoint | None:
        """Start it and wait until it serves; `die_at` if it came to its kill point before.

        Raises RuntimeError for an engine that does not start within `timeout` seconds.
        """
        assert not self.alive, "one engine for one directory"
        self._bury()
        self._incarnation += 1
        self._switchboard.killed = False
        self._die_at = die_at
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "armin.torture.launcher", self._orders(passing).encode()],
                stdin=subprocess.PIPE,  # its end is the engine's: it dies with us
                stdout=subprocess.PIPE,
                stderr=log,
            )
        if self._says_serving(timeout):
            return None
        self.kill()
        if self.died_at is not None:
            return self.died_at
        said = self.log.read_bytes()[-LAST_WORDS_BYTES:].decode("utf-8", "replace")
        raise RuntimeError(f"the engine did not start within {timeout} s: {said}")

    def _orders(self, passing: int) -> Orders:
        return Orders(
            serve=(str(self.directory), *self._options),
            database=str(self._database),
            switchboard=str(self.evidence / "engine.switchboard"),
            trace=str(self.trace) if self.can_cut else None,
            die_at=self._die_at,
            passing=passing,
            sabotage=tuple(self.sabotage),
        )

    def _says_serving(self, timeout: float) -> bool:
        assert self._process is not None
        assert self._process.stdout is not None
        said, deadline = b"", time.monotonic() + timeout
        while b"serving" not in said:
            readable, _, _ = select.select(
                [self._process.stdout], [], [], max(0, deadline - time.monotonic())
            )
            read = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not read:
                return False
            said += read
        return True

    @property
    def alive(self) -> bool:
        """Whether the process runs; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        assert self._process is not None, "start comes first"
        return self._process.pid

    @property
    def died_at(self) -> KillPoint | None:
        """The kill point that the last incarnation came to; None if it lives or ended otherwise."""
        return self._die_at if not self.alive and self._switchboard.killed else None

    def wait_dead(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for its end; whether it came."""
        assert self._process is not None, "start comes first"
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    # --- death --------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL; nothing if it is dead."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._bury()

    def pause(self) -> None:
        """SIGSTOP."""
        assert self._process is not None, "start comes first"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None, "start comes first"
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; returns the exit code. Raises subprocess.TimeoutExpired, the engine killed."""
        assert self._process is not None, "start comes first"
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)
        try:
            return self._process.wait(STOP_S)
        finally:
            self.kill()

    def _bury(self) -> None:
        """Take in what the last incarnation did to its files."""
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        if self._shadow is not None and self.trace.exists():
            self._shadow.absorb(self.trace)
            self.trace.rename(kept := self.trace.with_suffix(".past"))
            if not self._keep_traces:
                kept.unlink()

    # --- the disk -----------------------------------------------------------------------------------

    def power_cut(self, chance: random.Random) -> CutReport:
        """Kill it, and leave its files as a disk might hold them that lost its power at that moment.

        All that was synced is there; of what was not, `chance` picks what survives. Only where `can_cut`.
        """
        assert self._shadow is not None, "power cuts are not possible here"
        self.kill()
        return self._shadow.cut(chance)

    def fail(self, fault: Fault | None) -> None:
        """From now on this befalls its files, across restarts, too; None: all is well again."""
        assert fault is None or self.can_cut, "faults are not possible here"
        self._switchboard.fault = fault
