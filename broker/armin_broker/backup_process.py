"""One backup in a process of its own, which gives way to the engine that started it.

The engine's process never opens its own file a second time by hand, and what is checked here holds up no
turn of its loop. Says what came of it in one line of JSON; ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from armin_engine import backup
from armin_engine.errors import EngineError


def main() -> None:
    """`DATABASE DESTINATION`: back up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the engine's; it ends this process
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    backup.give_way()
    database, destination = map(Path, sys.argv[1:])
    sys.stdout.write(json.dumps(_outcome(database, destination)) + "\n")


def _outcome(database: Path, destination: Path) -> dict[str, Any]:
    try:
        made = backup.back_up(database, destination)
    except EngineError as error:
        return {"reason": error.reason, "message": error.message}
    except OSError as error:
        return {"reason": "read", "message": f"cannot read {database}: {error.strerror or error}"}
    return {
        "name": made.path.name,
        "bytes": made.bytes,
        "position": made.position,
        "head": made.head,
        "finished_at": made.begun_at + made.duration_ms,
        "duration_ms": made.duration_ms,
    }


def _end_with_the_engine() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # the copy is cleaned up by the main thread


if __name__ == "__main__":
    main()
