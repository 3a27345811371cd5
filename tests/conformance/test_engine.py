"""The engine passes every vector, over ipc and over TCP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from armin.conformance.bench import Bench
from armin.conformance.playing import Player
from conformance.bench_of import ENGINE_CASES, bench_of, running_engine

ON_TCP = (
    "hello_ping",
    "append",
    "append_many",
    "pipeline",
    "read",
    "values",
    "sync_live",
    "effects",
    "envelope",
    "leases",
)


@pytest.fixture(scope="module")
def ipc_bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="armin-") as directory:
        path = Path(directory) / "e"
        with running_engine(path) as engine, bench_of(engine, str(path), "ipc") as bench:
            yield bench


@pytest.fixture(scope="module")
def tcp_bench(free_ports: int) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="armin-") as directory:
        place = f"127.0.0.1:{free_ports}"
        with (
            running_engine(Path(directory) / "e", "--tcp", place) as engine,
            bench_of(engine, f"tcp://{place}", "tcp") as bench,
        ):
            yield bench


@pytest.mark.parametrize("case", list(ENGINE_CASES))
def test_over_ipc(ipc_bench: Bench, case: str) -> None:
    number = list(ENGINE_CASES).index(case)
    assert Player(ipc_bench, ENGINE_CASES[case], number).play() == []


@pytest.mark.parametrize("case", [case.id for case in ENGINE_CASES.values() if case.file in ON_TCP])
def test_over_tcp(tcp_bench: Bench, case: str) -> None:
    number = list(ENGINE_CASES).index(case)
    assert Player(tcp_bench, ENGINE_CASES[case], number).play() == []


def test_an_engine_that_has_data_passes_again(ipc_bench: Bench) -> None:
    files = ("create_session", "session_sessions", "log", "groups", "dead_letters")
    cases = [case for case in ENGINE_CASES.values() if case.file in files]
    for number, case in enumerate(cases, len(ENGINE_CASES)):
        assert Player(ipc_bench, case, number).play() == []
    groups = [group["group"] for group in ipc_bench.ask("groups")["groups"]]
    assert groups == [], "what the cases have made is dropped"
