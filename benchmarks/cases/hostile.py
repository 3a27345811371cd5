"""Appends beside peers that mean harm, or are broken, and without them; and the engine's memory meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Final

import armin
from armin_broker.keyring import Keyring
from benchmarks.bench import MESSAGE_BYTES, SYNC, TEXT, Bench, case
from benchmarks.hostile_peers import ATTACKS, CROWD, Place
from benchmarks.rows import Check, Row, Sample, paired
from benchmarks.servers import Engine, Hand, crew

MIB: Final = 1 << 20
MEMORY_MAX_MIB: Final = 192  # that all of this may cost the engine, one after the other, beyond what it holds
UNDER_WAY_S: Final = 0.5  # from the beginning of an attack until it is measured
STORED: Final = 2_000  # messages of 1 KiB in the session that is read
STOPPED: Final = "one subscriber stopped"


@case("17", "p99 of one client's appends beside hostile peers / p99 without")
def hostile(bench: Bench, row: Row) -> None:
    seconds = bench.size(4, 2)
    row.setting |= {
        "sync": SYNC,
        "message_bytes": MESSAGE_BYTES,
        "writers": "1, one append at a time, by ipc",
        "hostile": f"one process as fast as it can, by tcp (CURVE) and ipc; {CROWD} connections at a time",
        "seconds_per_sample": f"{seconds}; {STOPPED}: {bench.size(60, 10)} s in one go",
        "stored": f"{STORED} messages of 1 KiB in the session that is read",
    }
    with bench.directory() as root:
        directory = root / "e"
        _, key = Keyring(directory / "keys").new("reader", "reader")
        with Engine(directory, "--tcp", "127.0.0.1:0") as engine, engine.connect() as client:
            session = client.create_session().id
            with client.pipeline() as pipe:
                for _ in range(STORED):
                    pipe.append(session, "user", "x" * 1024)
            place = Place(directory, dict(client.hello().endpoints["tcp"]), key)
            _measure(bench, row, engine, client, place, seconds)
    row.notes += [
        "A hostile process takes a core of its own meanwhile, and so does what the kernel does for it: on two"
        " cores, much of what is measured is the machine being busy.",
        "Floods of subscriptions by somebody who holds a key are not in here: libzmq bounds their length, not"
        " their number.",
    ]


def _measure(
    bench: Bench, row: Row, engine: Engine, client: armin.Client, place: Place, seconds: float
) -> None:
    session = client.create_session().id
    before = engine.memory_bytes()
    most = before
    for name in ATTACKS:
        long = name == STOPPED

        def beside(name: str = name, long: bool = long) -> Sample:
            nonlocal most
            with _attack(name, place):
                sample = _appended(client, session, bench.size(60, 10) if long else seconds)
                most = max(most, engine.memory_bytes())
                return sample

        rounds = 1 if long else bench.rounds
        pairs = paired(beside, lambda: _appended(client, session, seconds), rounds, warm_up=0 if long else 1)
        row.sides |= {name: pairs.ours, f"{name}: without": pairs.theirs}
        row.checks += [
            Check(f"append, p99, {name}", pairs.latency_ratios("p99"), 2, at_most=True),
            Check(f"append, p50, {name}", pairs.latency_ratios("p50"), at_most=True),
        ]
    held = client.stats()["history_bytes"] / MIB
    row.setting["history_at_the_end"] = f"{held:.0f} MiB"
    row.checks.append(
        Check(
            "memory at its highest, less that before",
            [(most - before) / MIB],
            MEMORY_MAX_MIB + held,
            at_most=True,
            unit="MiB",
        )
    )


def _appended(client: armin.Client, session: int, seconds: float) -> Sample:
    latencies = []
    began = before = time.perf_counter()
    while before < began + seconds:
        client.append(session, "user", TEXT)
        after = time.perf_counter()
        latencies.append(after - before)
        before = after
    return Sample(len(latencies), before - began, latencies)


@contextlib.contextmanager
def _attack(name: str, place: Place) -> Iterator[None]:
    with crew(1, _be_hostile, name, place) as [attacker]:
        _begun(attacker)
        yield
        attacker.tell("enough")
        attacker.hear()


def _begun(attacker: Hand) -> None:
    attacker.hear()
    time.sleep(UNDER_WAY_S)


def _be_hostile(pipe: Connection, name: str, place: Place) -> None:
    pipe.send("begun")
    ATTACKS[name](place, pipe.poll)
    pipe.send("over")
