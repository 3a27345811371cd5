"""What the vectors cover, read from their steps, against what the protocol module knows."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from armin.conformance import features
from armin.conformance.cases import EngineCase, Json, Step, Vectors
from armin_broker import protocol

SOURCES = (Path(protocol.__file__).parents[1] / "armin_broker", Path(protocol.__file__).parents[2] / "engine")
NEVER_ANSWERED = {protocol.ErrorCode.NOT_AUTHORIZED, protocol.ErrorCode.INTERNAL}  # by what a peer can do
# What goes over these is dropped or shut out, and no reply says so; tests/system/test_limits.py holds them.
NO_REPLY_SAYS = {
    "effects_backlog",
    "effects_backlog_bytes",
    "live_backlog",
    "subscription_bytes",
    "connections",
}


def conflict_reasons() -> set[str]:
    """The reasons of every `Conflict` that engine and broker make."""
    found = set()
    for path in (path for source in SOURCES for path in source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Conflict":
                found |= {ast.literal_eval(each.value) for each in node.keywords if each.arg == "reason"}
    return found


@dataclass
class Known:
    """Names that must be covered; by default those of the protocol module."""

    ops: dict[str, protocol.Fields] = field(default_factory=lambda: dict(protocol.OPS))
    codes: set[str] = field(default_factory=lambda: set(protocol.ErrorCode))
    reasons: set[str] = field(default_factory=conflict_reasons)
    limits: set[str] = field(default_factory=lambda: set(protocol.LIMITS))
    event_types: set[str] = field(default_factory=lambda: set(protocol.EVENT_TYPES))
    roles: set[str] = field(default_factory=lambda: set(protocol.ROLES))
    features: set[str] = field(default_factory=lambda: set(protocol.FEATURES))


def uncovered(vectors: Vectors, known: Known) -> list[str]:
    """What is known and not covered, each with its kind."""
    exchanges = list(_exchanges(vectors.engine))
    fine = [command for command, reply in exchanges if _is_fine(reply)]
    ops = {str(command["op"]) for command in fine if isinstance(command.get("op"), str)}
    given = {
        (command["op"], name) for command in fine for name, value in command.items() if value is not None
    }
    fields = {(op, name) for op, each in known.ops.items() for name in (*each.required, *each.optional)}
    steps = [step for case in vectors.engine for step in case.steps]
    engine_errors = [error for step in steps for error in _errors([step.expect, step.until])]
    client_errors = [error for case in vectors.client for error in _errors(list(case.answers))]
    engine_codes, client_codes = (
        {error.get("code") for error in errors} for errors in (engine_errors, client_errors)
    )
    limits = list(_limits(list(map(_all_of, steps))))
    return [
        *_missing("an op that succeeds", known.ops, ops),
        *_missing("a field that is taken", fields, given),
        *_missing("an op within a pipeline", known.ops, set(_pipelined(exchanges))),
        *_missing("an error of an engine", known.codes - NEVER_ANSWERED, engine_codes),
        *_missing("an error at a client", known.codes, client_codes),
        *_missing("a reason of a conflict", known.reasons, {error.get("reason") for error in engine_errors}),
        *_missing(
            "a limit at its bound", known.limits - NO_REPLY_SAYS, {name for name, plus in limits if plus == 0}
        ),
        *_missing(
            "a limit beyond its bound",
            known.limits - NO_REPLY_SAYS,
            {name for name, plus in limits if plus > 0},
        ),
        *_missing("a type of event", known.event_types, set(_event_types(vectors.engine))),
        *_missing(
            "a role", known.roles, {command.get("role") for command in fine if command["op"] == "append"}
        ),
        *_missing(
            "a feature", known.features, {name for case in vectors.engine for name in features.of(case)}
        ),
    ]


def _missing(kind: str, wanted: Iterable[Any], found: set[Any]) -> list[str]:
    return [f"{kind}: {name}" for name in sorted(set(wanted) - found)]


def _exchanges(cases: Iterable[EngineCase]) -> Iterator[tuple[dict[str, Json], Json]]:
    """Each command with the reply that is expected to it, where that stands in the same step."""
    for step in (step for case in cases for step in case.steps):
        commands = features.commands(step)
        expected = step.until if step.until is not None else step.expect
        if isinstance(expected, dict) and "$list" in expected:
            expected = expected["$list"]
        replies = expected if isinstance(expected, list) else [expected] * len(commands)
        yield from zip(commands, replies, strict=False)


def _pipelined(exchanges: Iterable[tuple[dict[str, Json], Json]]) -> Iterator[str]:
    """Every op in a pipeline of which a reply for each command is expected."""
    for command, reply in exchanges:
        if isinstance(reply, dict) and isinstance(reply.get("replies"), list):
            yield from (part["op"] for part in features.parts(command) if isinstance(part.get("op"), str))


def _is_fine(reply: Json) -> bool:
    return isinstance(reply, dict) and reply.get("ok") is True


def _errors(value: Json) -> Iterator[dict[str, Json]]:
    """Every error within a reply, those in outcomes included."""
    if isinstance(value, dict):
        if isinstance(value.get("error"), dict):
            yield value["error"]
        for item in value.values():
            yield from _errors(item)
    elif isinstance(value, list):
        for item in value:
            yield from _errors(item)


def _limits(value: Json) -> Iterator[tuple[str, int]]:
    """Every limit that is spoken of, with how far beyond it."""
    if isinstance(value, dict):
        if "$limit" in value:
            yield value["$limit"], value.get("plus", 0)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _limits(item)


def _all_of(step: Step) -> list[Json]:
    return [step.send, step.frames, step.envelope, step.expect, step.until, step.events, step.size]


def _event_types(cases: Iterable[EngineCase]) -> Iterator[str]:
    for step in (step for case in cases for step in case.steps):
        yield from (
            event["type"] for event in step.events or () if isinstance(event, dict) and "type" in event
        )
