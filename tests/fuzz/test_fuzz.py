"""The fuzzer for some seconds with fixed seeds, and all that was found before; `make fuzz` runs longer."""

from __future__ import annotations

import random
from pathlib import Path

import msgpack
import pytest

from armin_broker.commands import parse
from armin_broker.sender import TRUSTED
from harness import Engine
from tests.fuzz import serving, wire
from tests.fuzz.commands import Commands
from tests.fuzz.corpus import Corpus

INPUTS = 20_000
WIRE_INPUTS = 10_000


def test_what_was_found_before_breaks_nothing() -> None:
    corpus, seen = Corpus(), set[str]()
    assert len(corpus.frames) > 150
    serving.serve(
        ((frame, sender) for frame in corpus.frames for sender in set(serving.SENDERS)),
        lambda outcome, frame: seen.add(outcome),
    )
    codes = {outcome.partition(" ")[0] for outcome in seen}
    assert codes >= {"ok", "bad_request", "too_large", "unknown_op", "not_authorized", "session_not_found"}
    assert len(seen) > 100
    for frame in corpus.frames:
        serving.check_memory(frame)


def test_a_group_whose_name_begins_with_nul_verifies_equal() -> None:
    frame = msgpack.packb({"op": "create_group", "group": "\0", "start": "now"})
    outcomes: list[str] = []
    serving.serve(iter([(frame, TRUSTED)]), lambda outcome, frame: outcomes.append(outcome))
    assert outcomes == ["ok group"]


@pytest.mark.parametrize("seed", [1, 2])
def test_chance_breaks_nothing(seed: int) -> None:
    seen = set[str]()
    commands = Commands(random.Random(seed), Corpus().frames)
    facts = serving.serve(serving.from_chance(commands, INPUTS), lambda outcome, frame: seen.add(outcome))
    assert facts > 100, "some of it was done"
    assert len(seen) > 150


def test_a_seed_repeats_a_run() -> None:
    once, again = (Commands(random.Random(3), [b"\x80"]) for _ in range(2))
    assert [once.frame() for _ in range(500)] == [again.frame() for _ in range(500)]


def test_valid_commands_are_valid() -> None:
    commands = Commands(random.Random(4))
    assert {msgpack.unpackb(commands.valid())["op"] for _ in range(500)} > {"append", "lease", "pipeline"}


def test_a_bug_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(frame: bytes, sender: object = None) -> object:
        if b"after" in frame:
            raise RuntimeError("a bug")
        return parse(frame)

    monkeypatch.setattr("armin_broker.loop.parse", broken)
    commands = Commands(random.Random(5))
    with pytest.raises(serving.Broken, match="internal") as found:
        serving.serve(((commands.valid(), TRUSTED) for _ in range(500)), lambda outcome, frame: None)
    assert b"after" in found.value.frames[0]


@pytest.mark.parametrize("with_keys", [False, True])
def test_no_socket_is_harmed_by_any_peer(short_dir: Path, with_keys: bool) -> None:
    keys = wire.make_keys(short_dir / "e") if with_keys else []
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    try:
        held = wire.attack_engine(engine, seed=6, inputs=WIRE_INPUTS, keys=keys)
    finally:
        code = engine.stop()
    assert held["inputs"] >= WIRE_INPUTS
    assert code == 0
