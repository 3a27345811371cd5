"""The Python clients say to every vector what the engine says, each command through its method."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from armin.conformance.bench import Bench
from armin.conformance.cases import EngineCase
from armin.conformance.playing import Player
from armin_broker import protocol
from conformance.bench_of import ENGINE_CASES, TIMEOUT_S, bench_of, running_engine
from conformance.speakers import UNSPOKEN, Asynchronous, Blocking, Speaker

# Nothing of these goes through a client, or what they cost tells nothing more about it.
LEFT_OUT = {"envelope", "limits"}
CASES = {name: case for name, case in ENGINE_CASES.items() if case.file not in LEFT_OUT}
SPOKEN_LIMITS = (
    "meta_bytes",
    "meta_depth",
    "name_bytes",
    "key_bytes",
    "event_bytes",
    "tails",
    "attempts",
    "request_bytes",
    "nack_reason_bytes",
    "lease_bytes",
)
CASES |= {f"limits/{name}": ENGINE_CASES[f"limits/{name}"] for name in SPOKEN_LIMITS}


@pytest.fixture(scope="module", params=[Blocking, Asynchronous], ids=["blocking", "asyncio"])
def conversation(request: pytest.FixtureRequest) -> Iterator[tuple[Bench, Speaker]]:
    with tempfile.TemporaryDirectory(prefix="armin-") as directory:
        path = Path(directory) / "e"
        with (
            running_engine(path) as engine,
            bench_of(engine, str(path), "client") as bench,
            request.param(path, TIMEOUT_S) as speaker,
        ):
            yield bench, speaker


@pytest.mark.parametrize("case", list(CASES))
def test_a_client_says_what_the_engine_says(conversation: tuple[Bench, Speaker], case: str) -> None:
    bench, speaker = conversation
    number = list(CASES).index(case)
    assert Player(bench, CASES[case], number, speaker).play() == []


def test_every_op_goes_through_the_client(conversation: tuple[Bench, Speaker]) -> None:
    bench, speaker = conversation
    wanted = protocol.OPS.keys() - UNSPOKEN
    for number, case in enumerate(CASES.values(), start=len(CASES)):
        if ops(case) & (wanted - speaker.spoken):  # not all cases may have been played in this process
            assert Player(bench, case, number, speaker).play() == []
    assert speaker.spoken == wanted


def ops(case: EngineCase) -> set[object]:
    """What it asks for, as far as that stands there as a word."""
    sent = [step.send if isinstance(step.send, list) else [step.send] for step in case.steps]
    named = [command.get("op") for commands in sent for command in commands if isinstance(command, dict)]
    return {op for op in named if isinstance(op, str)}
