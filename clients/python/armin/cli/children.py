"""One process for each effect: what a command is given, and what becomes of it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Final

from armin.cli.records import event_record
from armin.effect import Effect, Retry
from armin.target import DIR_VARIABLE, URL_VARIABLE, DirectoryTarget, Target

KILL_AFTER: Final = 2.0  # seconds that a command which took too long has for its own end
LAST_WORDS: Final = 0.5  # seconds for standard error to end after its process has
TAIL_BYTES: Final = 2048  # of standard error, kept for the reason
CHUNK: Final = 1 << 16


class CannotStart(Retry):
    """The command itself is at fault, not the effect: no other effect would fare better."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, delay_ms=0)


class Command:
    """A handler that runs a command: exit code 0 has handled the effect.

    Args:
        arguments: the command and its arguments.
        environ: its environment; the effect's variables are added.
        timeout: seconds that it may take; None for ever.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str], timeout: float | None) -> None:
        self.broken: CannotStart | None = None
        self._arguments = arguments
        self._environ = environ
        self._timeout = timeout
        self._running: set[subprocess.Popen[bytes]] = set()
        self._killed = False
        self._lock = threading.RLock()  # a signal handler may come upon itself

    def check(self) -> None:
        """Raise CannotStart if there is no such command."""
        name = self._arguments[0]
        if shutil.which(name, path=self._environ.get("PATH")) is None:
            there = os.path.exists(name) and os.sep in name
            raise CannotStart(f"{name}: {'not executable' if there else 'command not found'}")

    def __call__(self, effect: Effect) -> None:
        """Run it for this effect.

        Raises:
            Retry: it failed, with the reason.
            CannotStart: it could not be started at all.
        """
        process = self._start(effect)
        assert process.stderr is not None
        tail = _Tail(process.stderr)
        try:
            in_time = self._wait(process)
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            end = _ending(process.returncode) if in_time else f"killed after {self._timeout:g} s"
            raise Retry(": ".join(filter(None, (end, tail.last_line()))))

    def _start(self, effect: Effect) -> subprocess.Popen[bytes]:
        # A file, not a pipe: a command that does not read it cannot hold anybody up.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(event_record(effect.event), ensure_ascii=False).encode("utf-8") + b"\n")
            stdin.seek(0)
            with self._lock:
                if self._killed:
                    raise Retry("the worker was told to end at once", delay_ms=0)
                process = self._spawn(effect, stdin)
                self._running.add(process)
        return process

    def _spawn(self, effect: Effect, stdin: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._arguments,
                stdin=stdin,
                stderr=subprocess.PIPE,
                env={**self._environ, **_variables(effect)},
                process_group=0,  # Ctrl-C is for the worker, which lets its commands finish
            )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            self.broken = CannotStart(f"{self._arguments[0]}: {error.strerror}")
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise  # the system is short of something; another time it may have it
            self.broken = CannotStart(f"{self._arguments[0]}: {error.strerror}")
        raise self.broken

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for its end; False if that had to be forced."""
        try:
            process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(KILL_AFTER)
            _signal(process, signal.SIGKILL)
            process.wait()
            return False
        return True

    def kill(self) -> None:
        """End all that runs, and start nothing more."""
        with self._lock:
            self._killed = True
            for process in self._running:
                _signal(process, signal.SIGKILL)


class _Tail:
    """Passes on what a process says on standard error, and remembers the end of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._tail = b""
        self._thread = threading.Thread(target=self._read, name="armin stderr", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while chunk := os.read(self._stream.fileno(), CHUNK):
                self._tail = (self._tail + chunk)[-TAIL_BYTES:]
                with contextlib.suppress(OSError):  # whoever read ours went away
                    os.write(2, chunk)

    def last_line(self) -> str:
        """The last line that says something."""
        self._thread.join(LAST_WORDS)  # a process left behind may hold it open for ever
        lines = self._tail.decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def environment(environ: Mapping[str, str], target: Target) -> dict[str, str]:
    """The environment for commands: `armin` in them means the same engine."""
    others = {name: value for name, value in environ.items() if name not in (DIR_VARIABLE, URL_VARIABLE)}
    if isinstance(target, DirectoryTarget):
        return {**others, DIR_VARIABLE: target.directory}
    return {**others, URL_VARIABLE: target.commands}


def _variables(effect: Effect) -> dict[str, str]:
    return {
        "ARMIN_POSITION": str(effect.position),
        "ARMIN_ATTEMPT": str(effect.attempt),
        "ARMIN_SESSION_ID": str(effect.session_id),
        "ARMIN_EVENT_TYPE": effect.type,
    }


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the command and what it has started, unless it has ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
