"""The campaign's own processes, as it sees them: started, led, killed, waited for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from armin.torture.evidence import life_file
from armin.torture.process import Settings

DUMP_S: Final = 2.0  # for a stuck process to write its stacks
OURS: Final = (sys.executable, "-m", "armin.torture.process")


class Workload:
    """One role of the campaign through all its lives; `settings.life` is the present one's number.

    `command` runs it, with the settings as its last argument.
    """

    def __init__(self, settings: Settings, command: Sequence[str] = OURS) -> None:
        self._command = command
        self.settings = replace(settings, life=0)
        self.crashes: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def role(self) -> str:
        """What it does."""
        return self.settings.role

    def start(self) -> None:
        """Begin a new life."""
        self.settings = replace(self.settings, life=self.settings.life + 1)
        evidence = Path(self.settings.evidence)
        command = [*self._command, self.settings.encode()]
        with (evidence / f"{self.role}-{self.settings.life}.stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
            )

    @property
    def at_work(self) -> bool:
        """Whether its present life has written down anything."""
        path = life_file(Path(self.settings.evidence), self.role, self.settings.life)
        return path.exists() and path.stat().st_size > 0

    def kill(self) -> None:
        """SIGKILL; a life that had ended by itself is a crash."""
        process = self._process
        if process is None:
            return
        if process.poll() is not None and process.returncode != 0:
            self.crashes.append(f"{self.role} ended with {process.returncode} in life {self.settings.life}")
        process.kill()
        process.wait()
        self._close()

    def finish(self, order: dict[str, Any]) -> None:
        """Tell it to come to an end."""
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()

    def wait(self, seconds: float) -> str | None:
        """Wait for its end; says what was wrong with it, its stacks are then in the evidence."""
        process = self._process
        if process is None:
            return None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                process.wait(DUMP_S)
            process.kill()
            process.wait()
            self._close()
            stacks = Path(self.settings.evidence, f"{self.role}-{self.settings.life}.stacks")
            return f"{self.role} did not come to an end within {seconds:.0f} s (where they stood: {stacks})"
        self._close()
        return None if code == 0 else f"{self.role} ended with {code} in life {self.settings.life}"

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None
