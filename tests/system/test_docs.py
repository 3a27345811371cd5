"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from armin.torture.checks import CHECKS
from armin_broker import protocol

DOCS = Path(__file__).parents[2] / "docs"


def rows(section: str) -> list[list[str]]:
    """Cells of the table behind a heading."""
    text = (DOCS / "protocol.md").read_text("utf-8").split(f"# {section}\n")[1]
    table = re.split(r"\n#+ ", text)[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> tuple[str, ...]:
    """Names within one pair of backticks."""
    match = re.fullmatch(r"`([a-z_, ]+)`|", cell)
    assert match is not None, cell
    return tuple(match[1].split(", ")) if match[1] else ()


def test_the_table_of_commands_is_the_protocols() -> None:
    table = {
        op.strip("`"): (names(required), names(optional))
        for op, required, optional, _ in rows("Commands") + rows("Worker groups")
    }
    assert table == {op: (fields.required, fields.optional) for op, fields in protocol.OPS.items()}


def test_the_table_of_limits_is_the_protocols() -> None:
    assert {name.strip("`"): int(value) for name, value, _ in rows("Limits")} == protocol.LIMITS


def test_the_table_of_errors_is_the_protocols() -> None:
    assert [code.strip("`") for code, _ in rows("Errors")] == list(protocol.ErrorCode)


def test_the_table_of_events_is_the_protocols() -> None:
    table = {kind.strip("`"): topic.strip("`") for kind, topic, _ in rows("Events")}
    topics = (protocol.created_topic(7), protocol.message_topic(7), protocol.closed_topic(7))
    kinds = (protocol.SESSION_CREATED, protocol.MESSAGE_APPENDED, protocol.SESSION_CLOSED)
    assert {kind: topic.replace("<session_id>", "7").encode() for kind, topic in table.items()} == dict(
        zip(kinds, topics, strict=True)
    )


def test_the_sockets_are_the_protocols() -> None:
    assert [endpoint.strip("`").rpartition("/")[2] for *_, endpoint, _ in rows("Sockets")] == [
        protocol.COMMANDS_SOCKET,
        protocol.LIVE_SOCKET,
        protocol.EFFECTS_SOCKET,
    ]


def test_the_table_of_a_groups_settings_is_the_protocols() -> None:
    table = {name.strip("`"): default for name, _, default, _ in rows("Settings of a group")}
    fields = protocol.OPS["create_group"]
    assert set(table) == {*fields.required, *fields.optional} - {"group"}
    shown = {name: str(default).lower() for name, default in protocol.GROUP_DEFAULTS.items()}
    assert {name: table[name] for name in shown} == shown


def test_the_life_of_an_effect_knows_its_states() -> None:
    states = {cell for state, becomes, _ in rows("Life of an effect") for cell in (state, becomes)}
    assert states == {"in the log, behind the cursor", "waiting", "leased", "dead letter", "done"}


def test_the_guarantees_name_tests_and_checks_that_exist() -> None:
    text = (DOCS / "guarantees.md").read_text("utf-8")
    named = set(re.findall(r"`(tests/[^`]*)`", text))
    assert len(named) > 20
    for pattern in named:
        assert list(DOCS.parent.glob(pattern.rstrip("/"))), pattern
    checks = set(re.findall(r"\*([^*\n]+)\*", text))
    assert checks
    assert checks <= set(CHECKS)
