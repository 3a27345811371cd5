"""The Procfile, run by honcho."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import CommandLine
from harness import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Honcho:
    """`honcho start` on the repository's Procfile."""

    def __init__(self, directory: Path) -> None:
        self.output = ""
        tools = directory.with_name("tools")
        tools.mkdir()
        # Wherever armin is installed: this interpreter's is the one that honcho must run.
        (tools / "armin").write_text(f'#!/bin/sh\nexec {sys.executable} -m armin.cli.main "$@"\n', "ascii")
        (tools / "armin").chmod(0o755)
        environ = CommandLine(directory).environ
        environ["PATH"] = f"{tools}:{environ['PATH']}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "honcho", "-f", str(ROOT / "Procfile"), "-d", str(tools), "start"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += re.sub(r"\x1b\[[0-9;]*m", "", line)

    def says(self, process: str, text: str) -> None:
        """Wait for one of its processes to print something."""
        pattern = re.compile(rf"{process}\.1 +\| .*{text}")
        wait_until(lambda: pattern.search(self.output) is not None, what=f"{process}: {text}")

    def stop(self) -> int:
        """SIGTERM, as a supervisor does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self._thread.join(60)
            assert self.process.stdout is not None
            self.process.stdout.close()
        return code


@pytest.fixture
def honcho(short_dir: Path) -> Iterator[Honcho]:
    honcho = Honcho(short_dir / "data")
    yield honcho
    honcho.stop()


@pytest.mark.skipif(shutil.which("sh") is None, reason="honcho needs a shell")
def test_honcho_runs_engine_follower_and_worker_and_ends_them_cleanly(
    honcho: Honcho, short_dir: Path
) -> None:
    honcho.says("engine", "serving")
    armin = CommandLine(short_dir / "data")
    armin.ok("new", "--name", "first")
    # The follower shows what comes after it has begun, so that is repeated until it has.
    wait_until(lambda: "follower.1" in _said(armin, honcho), what="the follower follows")
    honcho.says("worker", '"session_created".*"first"')
    honcho.says("worker", '"user".*"hello"')
    honcho.says("follower", "user +hello")
    honcho.stop()
    ends = re.findall(r"(\w+)\.1 (?:stopped|exited)? ?\(rc=(-?\d+)\)", honcho.output)
    assert dict(ends) == {"engine": "0", "follower": "0", "worker": "0"}, honcho.output
    assert "Traceback" not in honcho.output


def _said(armin: CommandLine, honcho: Honcho) -> str:
    armin.ok("append", "first", "user", "hello")
    return "\n".join(line for line in honcho.output.splitlines() if "hello" in line)
