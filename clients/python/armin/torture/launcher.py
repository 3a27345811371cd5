"""`python -m armin.torture.launcher ORDERS`: an engine that is watched, and breaks when told to.

It is the real `armin serve`, in a process in which the shim and the hooks were installed before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from armin.cli.main import main as command_line
from armin.torture import hooks
from armin.torture.disk import TorturedDisk
from armin.torture.fate import Fate
from armin.torture.orders import KillPoint, Orders, Sabotage, Switchboard
from armin.torture.shadow import SUFFIXES
from armin.torture.trace import TraceWriter
from armin.torture.vfs import Shim


def main(argument: str) -> None:
    """Serve as the orders say."""
    orders = Orders.decode(argument)
    threading.Thread(target=_die_with_parent, name="parent", daemon=True).start()
    switchboard = Switchboard(Path(orders.switchboard))
    die_at = None if orders.die_at is None else KillPoint(orders.die_at)
    fate = Fate(switchboard, die_at, orders.passing)
    hooks.install_kill_points(fate)
    hooks.checkpoint_often()
    if orders.trace is not None:
        _watch_files(orders.database, TorturedDisk(TraceWriter(Path(orders.trace)), switchboard, fate))
    for sabotage in orders.sabotage:
        hooks.SABOTAGES[Sabotage(sabotage)]()
    command_line(["serve", *orders.serve])


def _watch_files(database: str, disk: TorturedDisk) -> None:
    files = {database + suffix: which for which, suffix in SUFFIXES.items()}
    hooks.watch_rewrites(disk, files)
    Shim(files, disk)


def _die_with_parent() -> None:
    """Our standard input is a pipe that nobody writes to: its end is the parent's."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
