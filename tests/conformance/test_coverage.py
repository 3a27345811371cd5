"""No name of the protocol is without a vector: what is added to the one needs the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from armin_broker import protocol
from armin_broker.protocol import Fields
from conformance.bench_of import VECTORS
from conformance.covered import Known, conflict_reasons, uncovered


def test_the_vectors_cover_all_that_the_protocol_knows() -> None:
    assert uncovered(VECTORS, Known()) == []


@pytest.mark.parametrize(
    ("added", "missing"),
    [
        (
            {"ops": {**protocol.OPS, "rename": Fields()}},
            ["an op that succeeds: rename", "an op within a pipeline: rename"],
        ),
        (
            {"ops": {**protocol.OPS, "ping": Fields((), ("loudly",))}},
            ["a field that is taken: ('ping', 'loudly')"],
        ),
        (
            {"codes": {*protocol.ErrorCode, "too_late"}},
            ["an error of an engine: too_late", "an error at a client: too_late"],
        ),
        ({"reasons": {*conflict_reasons(), "renamed"}}, ["a reason of a conflict: renamed"]),
        (
            {"limits": {*protocol.LIMITS, "patience"}},
            ["a limit at its bound: patience", "a limit beyond its bound: patience"],
        ),
        ({"event_types": {*protocol.EVENT_TYPES, "session_renamed"}}, ["a type of event: session_renamed"]),
        ({"roles": {*protocol.ROLES, "critic"}}, ["a role: critic"]),
        ({"features": {*protocol.FEATURES, "renaming"}}, ["a feature: renaming"]),
    ],
)
def test_a_name_without_a_vector_is_named(added: dict[str, Any], missing: list[str]) -> None:
    assert uncovered(VECTORS, dataclasses.replace(Known(), **added)) == missing


@pytest.mark.parametrize(
    "file", ["limits", "append", "pipeline", "dead_letters", "stats_verify", "error_shutting_down"]
)
def test_vectors_that_are_taken_away_are_missed(file: str) -> None:
    rest = tuple(case for case in VECTORS.engine if case.file != file)
    assert uncovered(dataclasses.replace(VECTORS, engine=rest), Known()) != []


def test_the_reasons_of_a_conflict_are_found_in_the_sources() -> None:
    assert conflict_reasons() == {
        *("expect_seq", "key_reused", "out_of_order", "snapshot_moved", "settings"),
        *("backup_exists", "backup_running"),
    }
