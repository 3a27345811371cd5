"""The real `armin` command as a process: in a pipe, or on a terminal of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE_S = 270.0  # a command that takes longer is a failure; most tests are to be over before
COMMAND = (sys.executable, "-m", "armin.cli.main")


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Its output, line by line."""
        return self.out.splitlines()


class CommandLine:
    """Runs `armin` for one engine, named by ARMIN_DIR (or by nothing)."""

    def __init__(self, directory: Path | None = None, **variables: str) -> None:
        own = ("ARMIN_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.environ |= {"TERM": "xterm-256color", **variables}
        if directory is not None:
            self.environ["ARMIN_DIR"] = str(directory)

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        """Run a command to its end, its output in a pipe."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            env=self.environ,
            timeout=DEADLINE_S,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8", "replace"))

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run a command that must succeed quietly; returns what it printed."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.code, result.err) == (0, ""), (arguments, result)
        return result.out

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command with --json that must succeed; returns its objects."""
        return parsed(self.ok(*arguments, "--json"))

    def start(self, *arguments: str) -> Running:
        """Start a command whose output is read line by line."""
        return Running([*COMMAND, *arguments], self.environ)

    def terminal(self, *arguments: str, columns: int = 80) -> Terminal:
        """Start a command on a terminal of its own."""
        return Terminal([*COMMAND, *arguments], self.environ, columns)


def parsed(text: str) -> list[dict[str, Any]]:
    """One JSON object a line."""
    objects = [json.loads(line) for line in text.split("\n")[:-1]]
    assert all(isinstance(item, dict) for item in objects), objects
    return objects


class Running:
    """A command in a pipe that goes on."""

    def __init__(self, command: Sequence[str], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environ
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout.fileno()
        self._rest = b""
        self._said = ""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def line(self) -> str:
        """The next line of its output, without its end."""
        deadline = time.monotonic() + DEADLINE_S
        while b"\n" not in self._rest:
            readable, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"no line within {DEADLINE_S} s, after {self._rest!r}"
            chunk = os.read(self._out, 1 << 16)
            assert chunk, f"it ended ({self.process.wait(DEADLINE_S)}): {self.errors()}"
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8")

    def lines(self, count: int) -> list[str]:
        """So many next lines."""
        return [self.line() for _ in range(count)]

    def has_more(self) -> bool:
        """Whether there is something to read already."""
        return b"\n" in self._rest or self.unread() > 0

    def unread(self) -> int:
        """Bytes of its output that wait in the pipe."""
        return int.from_bytes(fcntl.ioctl(self._out, termios.FIONREAD, b"\0" * 4), sys.byteorder)

    def signal(self, number: int) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def hang_up(self) -> int:
        """Close the reading end of its output; returns the exit code."""
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(DEADLINE_S)

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said this on standard error, so often."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        deadline = time.monotonic() + DEADLINE_S
        while self._said.count(text) < times:
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"it did not say {text!r} within {DEADLINE_S} s, but {self._said!r}"
            chunk = os.read(descriptor, 1 << 16)
            assert chunk, f"it ended without {text!r}: {self._said!r}"
            self._said += chunk.decode("utf-8", "replace")

    def errors(self) -> str:
        """What it has said on standard error, once it has ended."""
        assert self.process.stderr is not None
        self._said += self.process.stderr.read().decode("utf-8", "replace")
        return self._said


class Terminal:
    """A command on a pseudo-terminal: all three of its streams, and Ctrl-C."""

    def __init__(self, command: Sequence[str], environ: dict[str, str], columns: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.screen = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        os.close(self._master)

    def until(self, text: str) -> str:
        """All that it has written once `text` is there."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.screen:
            assert self._read(deadline), f"it ended without {text!r}: {self.screen!r}"
        return self.screen

    @property
    def descriptor(self) -> int:
        """Of the terminal: for its size and its mode."""
        return self._master

    def type(self, keys: str) -> None:
        """Press these keys; Ctrl-C is \\x03."""
        os.write(self._master, keys.encode("utf-8"))

    def end(self) -> Result:
        """Wait for its end."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        return Result(self.process.wait(DEADLINE_S), self.screen.replace("\r\n", "\n"), "")

    def _read(self, deadline: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"nothing more within {DEADLINE_S} s, after {self.screen!r}"
        try:
            chunk = os.read(self._master, 1 << 16)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.screen += chunk.decode("utf-8", "replace")
        return bool(chunk)
