"""The processes of the demo: the engine, and two that watch it, each only through the `armin` command."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

# Each runs in a session of its own: Ctrl-C is for the demo, which then ends everybody in order.
ARMIN: Final = (sys.executable, "-m", "armin.cli.main")
START_S: Final = 20.0  # an engine that takes longer to start has failed
STOP_S: Final = 10.0
LAST_KEPT: Final = 8  # messages kept to be shown


class DemoFailed(Exception):
    """Something is not as Armin promises; says what."""


def environment(directory: Path) -> dict[str, str]:
    """What the `armin` command needs to find the engine, and nothing that points elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ARMIN_")}
    return {**kept, "ARMIN_DIR": str(directory)}


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something that must happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class Engine:
    """`armin serve DIRECTORY`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            _end(self.process)

    def start(self) -> float:
        """Start it; returns the seconds until it served."""
        begun = time.monotonic()
        self.process = subprocess.Popen(
            [*ARMIN, "serve", "--log-level", "warning", str(self.directory)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        if not readable or "serving" not in self.process.stdout.readline():
            raise DemoFailed("the engine did not start")
        return time.monotonic() - begun

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL: as if the power had gone, for this process."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_S)


class Watcher:
    """An `armin` command that prints one JSON event a line, and what it has printed so far."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.last: deque[dict[str, Any]] = deque(maxlen=LAST_KEPT)  # events of messages
        self.kinds: Counter[str] = Counter()
        self.position = 0  # the highest seen
        self.repeats_or_gaps = 0
        self.process = subprocess.Popen(
            [*ARMIN, "--wait", str(START_S), *arguments],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment(directory),
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self.process)
        self._thread.join(STOP_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.repeats_or_gaps += event["position"] != self.position + 1
            self.position = event["position"]
            self.kinds[event["type"]] += 1
            if "message" in event:
                self.last.append(event)

    @property
    def facts(self) -> int:
        """How many events it has printed."""
        return self.kinds.total()


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(directory: Path, *arguments: str) -> None:
    """Run an `armin` command to its end, its output shown as it is; it must succeed."""
    done = subprocess.run(
        [*ARMIN, *arguments], env=environment(directory), start_new_session=True, check=False
    )
    if done.returncode != 0:
        raise DemoFailed(f"armin {' '.join(arguments)} ended with exit code {done.returncode}")
