"""What a case asks of an engine, read from its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from armin.conformance.cases import EngineCase, Json, Step

# The features of `hello` by what a command must hold to use them: an op, or a field.
GROUP_OPS: Final = frozenset(
    {
        *("create_group", "groups", "drop_group", "lease", "ack", "nack", "extend"),
        *("dead_letters", "requeue", "discard"),
    }
)
PIPELINE: Final = "pipeline"
OPS: Final = {PIPELINE: "pipeline", "health": "health", "backup": "backup"}
REPLIES: Final = {"role": "roles"}  # of `hello`
FIELDS: Final = {"key": "keys", "after_key": "keys", "name": "names", "meta": "meta", "epoch": "epochs"}


def commands(step: Step) -> list[dict[str, Any]]:
    """The commands of a step, their placeholders as they stand; those within frames too."""
    sent = step.send
    if isinstance(sent, dict) and "$list" in sent:
        sent = sent["$list"]
    found = sent if isinstance(sent, list) else [sent]
    found = found + [frame.get("$pack") for frame in step.frames or () if isinstance(frame, dict)]
    return [command for command in found if isinstance(command, dict)]


def of(case: EngineCase) -> frozenset[str]:
    """The features that a case uses, where its commands are taken."""
    used = {feature for step in case.steps for command in commands(step) for feature in _uses(command)}
    told = {feature for step in case.steps for feature in _tells(step)}
    return frozenset(used | told)


def _tells(step: Step) -> Iterator[str]:
    """The features that a reply shows."""
    if isinstance(step.send, dict) and step.send.get("op") == "hello":
        expected = step.expect if isinstance(step.expect, dict) else {}
        yield from (REPLIES[field] for field in REPLIES if field in expected)


def parts(command: dict[str, Json]) -> list[dict[str, Any]]:
    """The commands of a pipeline, none of another command; their placeholders as they stand."""
    several = command.get("commands") if command.get("op") == PIPELINE else None
    if isinstance(several, dict):
        several = [several.get("$list")]
    return [part for part in several if isinstance(part, dict)] if isinstance(several, list) else []


def _uses(command: dict[str, Json]) -> Iterator[str]:
    op = command.get("op")
    if isinstance(op, str) and op in GROUP_OPS:
        yield "groups"
    if isinstance(op, str) and op in OPS:
        yield OPS[op]
    for part in parts(command):
        yield from _uses(part)
    for field, feature in FIELDS.items():
        if field in command:
            yield feature
    messages = command.get("messages")
    if isinstance(messages, list) and any(isinstance(each, dict) and "meta" in each for each in messages):
        yield "meta"
