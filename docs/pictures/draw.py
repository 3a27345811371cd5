"""Draw the pictures of the terminal views: `make pictures`, or `draw.py SECONDS DIRECTORY`.

A real engine on a directory of its own, under a load from a seed, looked at as `armin status` and `armin top`
look at it. What differs from run to run is what the machine makes of it; paths are replaced.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console

import armin
from armin.cli import terminal
from armin.cli.connection import Where
from armin.cli.dashboard import Dashboard
from armin.cli.status import sections, troubled
from armin.cli.watching import History, Reading, Source

HERE = Path(__file__).parent
SHOWN_DIRECTORY = "/srv/chat"  # in place of the temporary one
SEED = 11
SECONDS = 60  # of load: the minute of the sparklines
WIDTH = 100


class Load:
    """Writers, followers and workers on one engine until `stop`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._write, args=(number,)) for number in range(3)),
            threading.Thread(target=self._work, args=("summaries", 0.0)),
            threading.Thread(target=self._work, args=("mail", 0.004)),
            *(threading.Thread(target=self._follow, daemon=True) for _ in range(2)),
            threading.Thread(target=self._pull, daemon=True),
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for thread in self._threads:
            if not thread.daemon:
                thread.join()

    def _write(self, number: int) -> None:
        chance = random.Random(SEED + number)
        with armin.connect(self._directory, timeout=30) as client:
            turn = 0
            while not self._ended.wait(0.03 * (1.2 + math.sin(turn / 40))):
                turn += 1
                session = client.create_session()
                with client.pipeline() as pipe:
                    for _ in range(chance.randint(1, 12)):
                        pipe.append(
                            session.id, chance.choice(("user", "assistant")), "hello " * chance.randint(1, 60)
                        )
                if chance.random() < 0.7:
                    client.close_session(session.id)

    def _work(self, group: str, fails: float) -> None:
        chance = random.Random(SEED)

        def handle(effect: armin.Effect) -> None:
            time.sleep(0.0005)
            if chance.random() < fails:
                raise armin.Retry("the mail server said no")

        with armin.connect(self._directory, timeout=30) as client:
            types = ["session_closed"] if group == "mail" else None
            worker = client.worker(group, handle, types=types, max_attempts=1, concurrency=4)
            threading.Thread(target=lambda: (self._ended.wait(), worker.stop()), daemon=True).start()
            worker.run()

    def _follow(self) -> None:
        with armin.connect(self._directory, timeout=30) as client:
            for _ in client.follow_all(after=0):
                if self._ended.is_set():
                    return

    def _pull(self) -> None:
        with armin.connect(self._directory, timeout=30) as client:
            for _ in client.effects():
                if self._ended.is_set():
                    return


def watched(directory: Path, seconds: int) -> History:
    """A reading each second, under load."""
    history, source = History(), Source(Where(directory))
    due = time.monotonic()
    for _ in range(seconds):
        history.add(shown(source.look()))
        due += 1
        time.sleep(max(due - time.monotonic(), 0))
    source.close()
    return history


def shown(reading: Reading) -> Reading:
    """The reading without the directory's own name."""
    assert reading.hello is not None, reading.problem
    ipc = {name: f"{SHOWN_DIRECTORY}/{name}.sock" for name in reading.hello.endpoints["ipc"]}
    return dataclasses.replace(reading, hello=dataclasses.replace(reading.hello, endpoints={"ipc": ipc}))


def draw(target: Path, height: int, what: Any) -> None:
    """One picture, as a terminal of this height shows it."""
    console = Console(
        record=True,
        width=WIDTH,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
    )
    console.print(what)
    svg = console.export_svg(title=f"armin --dir {SHOWN_DIRECTORY} {target.stem}", unique_id=target.stem)
    target.write_text(svg + "\n", encoding="utf-8")


def main(seconds: int = SECONDS, target: Path = HERE) -> None:
    """Draw all of them into the directory `target`, after so many seconds of load."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    with tempfile.TemporaryDirectory(prefix="armin-") as name:
        directory = Path(name) / "chat"
        command = [sys.executable, "-m", "armin.cli.main", "serve", str(directory), "--memory", "64"]
        engine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert engine.stdout is not None
            engine.stdout.readline()
            with Load(directory):
                history = watched(directory, seconds)
        finally:
            engine.terminate()
            engine.wait()
    last = history.served
    assert last is not None
    assert last.hello is not None
    draw(target / "top.svg", 22, Dashboard(history, 1.0))
    found = sections(last.hello, last.stats, last.reasons)
    draw(target / "status.svg", 24, terminal.sections(found, troubled(last.stats, last.reasons)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(Path, sys.argv[2:3]))
