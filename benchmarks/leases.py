"""How many effects one bare DEALER leases and acknowledges a second, on a real engine and a real disk.

    python benchmarks/leases.py [--effects 50000] [--batch 100] [--pipelined] [--directory DIR]

The backlog (messages of 100 bytes in one session) is there before. Each cycle is `lease` and `ack` of a
batch, one after the other, or with --pipelined the `ack` together with the next `lease`. Both are synced
(`synchronous=FULL`) before they are answered. Prints effects a second, and processor time per effect.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from harness import Engine, Peer


def fill(peer: Peer, effects: int) -> None:
    """A group `g` with so many effects before it."""
    peer.ask("create_session")
    message = {"role": "user", "content": "x" * 100}
    for begin in range(1, effects, 5000):
        peer.ask("append_many", session_id=1, messages=[message] * min(5000, effects - begin))
    peer.ask("create_group", group="g", start="begin")


def acked(leases: list[dict[str, Any]]) -> list[str]:
    return [each["lease"] for each in leases]


def in_turn(peer: Peer, batch: int) -> int:
    done = 0
    while leases := peer.ask("lease", group="g", max=batch)["leases"]:
        done += len(peer.ask("ack", group="g", leases=acked(leases))["outcomes"])
    return done


def pipelined(peer: Peer, batch: int) -> int:
    done = 0
    leases = peer.ask("lease", group="g", max=batch)["leases"]
    while leases:
        peer.send("ack", group="g", leases=acked(leases))
        peer.send("lease", group="g", max=batch)
        done += len(peer.receive()[1]["outcomes"])
        leases = peer.receive()[1]["leases"]
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--effects", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--pipelined", action="store_true")
    parser.add_argument("--directory", help="where the file goes; default a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="armin-", dir=options.directory) as directory:
        engine = Engine(Path(directory) / "e").start()
        try:
            with engine.peer() as peer:
                fill(peer, options.effects)
                used, began = engine.cpu_seconds(), time.perf_counter()
                done = (pipelined if options.pipelined else in_turn)(peer, options.batch)
                taken = time.perf_counter() - began
                used = engine.cpu_seconds() - used
        finally:
            engine.stop()
    print(f"{done} effects, {done / taken:,.0f}/s, {used / done * 1e6:.0f} us of the engine's processor each")


if __name__ == "__main__":
    main()
