"""The documents say what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

import protocol_document as document
from armin import client, following, outbox, sockets, working
from armin.torture.checks import CHECKS
from armin_broker import authority, loop, protocol
from armin_broker.commands import parse
from armin_broker.health import Reason, State
from armin_engine.errors import BadRequest, CommandError, EngineError
from documented_types import kind
from harness import Peer, wait_until

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

# --- commands -------------------------------------------------------------------------------------


def summary() -> dict[str, tuple[str, ...]]:
    """The table of commands: the cells behind each op."""
    return {op.strip("`"): cells for op, *cells in document.table("Commands", "op").rows}


def fields_of(op: str) -> list[tuple[str, str, str]]:
    """Name, type and default of each field, as the op's own section has them."""
    found = [table for table in document.tables(f"`{op}`") if table.head[0] == "field"]
    return [(name.strip("`"), type_, default) for name, type_, default, _ in found[0].rows] if found else []


FIELDS = [(op, *field) for op in protocol.OPS for field in fields_of(op)]


def test_every_op_has_its_row_and_its_section_and_there_are_no_others() -> None:
    assert list(summary()) == list(protocol.OPS)
    assert sorted(re.findall(r"`(\w+)`", " ".join(document.headings()))) == sorted(protocol.OPS)


@pytest.mark.parametrize("op", protocol.OPS)
def test_the_fields_of_an_op_are_the_protocols(op: str) -> None:
    required, optional, *_ = summary()[op]
    assert (document.names(required), document.names(optional)) == protocol.OPS[op][:2]
    named = [(name, default == "required") for name, _, default in fields_of(op)]
    fields = protocol.OPS[op]
    assert named == [(name, True) for name in fields.required] + [(name, False) for name in fields.optional]


def base(op: str) -> dict[str, Any]:
    """The least that an op takes."""
    return {name: kind(type_).taken[0] for name, type_, default in fields_of(op) if default == "required"}


def refusal(op: str, fields: dict[str, Any]) -> CommandError | None:
    try:
        parse(msgpack.packb({"op": op, **fields}))
    except CommandError as error:
        return error
    return None


@pytest.mark.parametrize(("op", "field", "type_", "default"), FIELDS, ids=lambda value: str(value)[:30])
def test_a_field_takes_what_its_type_says_and_nothing_beyond(
    op: str, field: str, type_: str, default: str
) -> None:
    for value in kind(type_).taken:
        assert refusal(op, {**base(op), field: value}) is None
    for value, code, inside in kind(type_).refused:
        error = refusal(op, {**base(op), field: value})
        assert error is not None, str(value)[:60]
        assert (error.code, error.field) == (code, field + inside), str(value)[:60]
    if op != "session":  # which needs one of two
        error = refusal(op, {**base(op), field: None})
        assert (error is None) == (default != "required")


@pytest.mark.parametrize(
    ("op", "one", "other"), [("read", "after", "before"), ("sessions", "after", "before")]
)
def test_two_cursors_are_one_too_many(op: str, one: str, other: str) -> None:
    assert "not with `after`" in document.section(f"`{op}`")
    error = refusal(op, {**base(op), one: 1, other: 2})
    assert isinstance(error, BadRequest)
    assert error.field == other


def replies_of(op: str) -> dict[str, str]:
    """Type of each field of a reply."""
    found = [table for table in document.tables(f"`{op}`") if table.head[0] == "reply"]
    return {name.strip("`"): type_ for name, type_, *_ in found[0].rows} if found else {}


@pytest.mark.parametrize("op", [op for op in protocol.OPS if op != "stats"])
def test_a_reply_has_the_same_fields_in_the_table_of_commands_and_in_its_section(op: str) -> None:
    names = document.names(summary()[op][2])
    assert [name.rstrip("?") for name in names] == list(replies_of(op))


def story(peer: Peer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Commands that succeed, so that each op and each optional field of a reply is seen; op and reply."""

    def ask(op: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        return op, peer.ask(op, **fields)

    keyed = {"session_id": 1, "role": "user", "content": "x", "key": "k"}
    batch = {"session_id": 1, "messages": [{"role": "user", "content": "x"}], "key": "l"}
    yield from (ask(op) for op in ("hello", "ping", "stats", "health"))
    yield from (ask("create_session", name="n") for _ in range(2))
    yield from (ask("append", **keyed) for _ in range(2))
    yield from (ask("append_many", **batch) for _ in range(2))
    yield ask("pipeline", commands=[{"op": "append", **keyed}, {"op": "ping"}])
    yield from (ask(op, session_id=1) for op in ("session", "read", "snapshot", "delta"))
    yield from (ask(op) for op in ("sessions", "log", "refresh_snapshot"))
    yield ask("tails", session_ids=[1])
    yield ask("sync", token="t")
    yield from (ask("create_group", group="g", start="begin", max_attempts=1) for _ in range(2))
    _, leased = ask("lease", group="g", max=3)
    one, two, three = (lease["lease"] for lease in leased["leases"])
    yield "lease", leased
    yield from (ask("ack", group="g", leases=[one]) for _ in range(2))
    yield ask("extend", group="g", leases=[two])
    yield ask("nack", group="g", leases=[two, three], reason="why")
    yield from (ask(op, group="g") for op in ("groups", "dead_letters"))
    yield from (ask(op, group="g", positions=[]) for op in ("requeue", "discard"))
    yield ask("drop_group", group="g")
    yield from (ask("close_session", session_id=1) for _ in range(2))
    begun = ask("verify")
    yield begun
    wait_until(lambda: peer.ask("verify", job=begun[1]["job"])["done"])
    yield ask("verify", job=begun[1]["job"], at=1)
    begun = ask("backup", name="b")
    yield begun
    wait_until(lambda: peer.ask("backup", job=begun[1]["job"])["done"])
    yield ask("backup", job=begun[1]["job"])


def fits(value: object, type_: str) -> bool:
    """Whether a value in a reply is of its documented type."""
    low = {"id": 1, "cursor": 0, "time": 1_000_000_000_000}
    if type_ in low or type_.startswith("int "):
        return type(value) is int and value >= low.get(type_, 1)
    return isinstance(
        value, {"bool": bool, "text": str, "[": list}.get(type_ if type_[0] != "[" else "[", dict)
    )


def test_every_op_replies_with_the_documented_fields_of_the_documented_types(peer: Peer) -> None:
    seen: dict[str, set[str]] = {}
    for op, reply in story(peer):
        assert reply["ok"] is True, (op, reply)
        types = replies_of(op)
        if op != "stats":
            fields = {name: value for name, value in reply.items() if name not in ("ok", "position")}
            needed = {name for name in document.names(summary()[op][2]) if not name.endswith("?")}
            assert needed <= fields.keys() <= types.keys(), op
            wrong = [
                name for name, value in fields.items() if value is not None and not fits(value, types[name])
            ]
            assert not wrong, (op, reply)
            seen.setdefault(op, set()).update(fields)
    assert {op: set(replies_of(op)) for op in seen} == seen
    assert seen.keys() == protocol.OPS.keys() - {"stats"}


def counters_and_gauges() -> set[str]:
    """What `stats` is said to reply."""
    return {
        name for row in document.table("`stats`", "reply").rows for name in re.findall(r"`(\w+)`", row[0])
    }


def test_the_counters_and_gauges_are_the_engines(peer: Peer) -> None:
    assert {*counters_and_gauges(), "ok", "position"} == peer.ask("stats").keys()


def test_what_a_group_says_of_itself_is_documented(peer: Peer) -> None:
    peer.ask("create_group", group="g", start="now")
    (group,) = peer.ask("groups")["groups"]
    cells = document.table("`groups`", "of a group").column()
    assert set(re.findall(r"\w+", " ".join(cells))) == group.keys()
    assert {name: group[name] for name in protocol.GROUP_DEFAULTS} == protocol.GROUP_DEFAULTS
    defaults = {name: default for name, _, default in fields_of("create_group")}
    assert {name: defaults[name] for name in protocol.GROUP_DEFAULTS} == {
        name: str(value).lower() for name, value in protocol.GROUP_DEFAULTS.items()
    }


def test_a_default_is_what_the_engine_takes_where_the_field_is_absent(peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append_many", session_id=1, messages=[{"role": "user", "content": ""}] * 150)
    defaulted = {(op, field): default for op, field, _, default in FIELDS if default.isdigit()}
    for op in ("read", "log", "sessions", "snapshot", "delta"):
        fields = {field: int(default) for (of, field), default in defaulted.items() if of == op}
        assert fields == {"after": 0, "limit": 100}
        assert peer.ask(op, **base(op), **fields) == peer.ask(op, **base(op)), op
    for op in ("lease", "extend"):
        fields = {field: int(default) for (of, field), default in defaulted.items() if of == op}
        whole, least = ({"op": op, **base(op), **more} for more in (fields, {}))
        assert parse(msgpack.packb(whole)) == parse(msgpack.packb(least)), op
    assert {op for op, _ in defaulted} == {
        *("read", "log", "sessions", "snapshot", "delta", "dead_letters"),
        *("lease", "extend", "create_group"),
    }


# --- errors ---------------------------------------------------------------------------------------


def sources() -> Iterator[ast.AST]:
    for package in (ROOT / "engine" / "armin_engine", ROOT / "broker" / "armin_broker"):
        for path in package.rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text("utf-8")))


def reasons(error: str, retry: bool) -> dict[str, bool]:
    """Every reason that an error is raised with, and whether to retry."""
    found: dict[str, bool] = {}
    for node in sources():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == error:
            given = {word.arg: word.value for word in node.keywords}
            reason, again = given.get("reason"), given.get("retry", ast.Constant(retry))
            if isinstance(reason, ast.Constant) and isinstance(again, ast.Constant):
                found[reason.value] = again.value
    return found


def refusals() -> dict[str, bool]:
    """The reasons why the store takes no more writes, which it keeps beside their messages."""
    found: dict[str, bool] = {}
    for node in sources():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            (target,) = node.targets
            reason = node.value.elts[-1]
            if isinstance(target, ast.Attribute) and target.attr in ("_refused", "_interrupted"):
                assert isinstance(reason, ast.Constant)
                found[reason.value] = False
    return found


def retries(first: str) -> dict[str, str]:
    return {row[0].strip("`"): row[2] for row in document.table("Errors", first).rows}


def test_the_reasons_are_those_that_the_code_gives() -> None:
    conflicts, failures = reasons("Conflict", False), reasons("StorageFailed", True) | refusals()
    assert {"out_of_order", "settings"} <= conflicts.keys()
    assert {"commit", "interrupted", "file_changed"} <= failures.keys()
    shown = [{name: str(retry).lower() for name, retry in each.items()} for each in (conflicts, failures)]
    assert [retries("`reason` of `conflict`"), retries("`reason` of `storage_failed`")] == shown


def test_the_codes_are_the_protocols_with_what_they_say_of_retrying() -> None:
    def tree(base: type[EngineError]) -> set[type[EngineError]]:
        return {base}.union(*(tree(sub) for sub in base.__subclasses__()))

    shown = retries("code")
    assert list(shown) == list(protocol.ErrorCode)
    assert [code for code, retry in shown.items() if not retry] == ["conflict", "storage_failed"]
    raised: dict[str, set[str]] = {}
    for error in tree(EngineError):
        raised.setdefault(error.code, set()).add(str(error.retry).lower())
    for code, retry in shown.items():
        if retry and code in raised:
            assert set(re.findall("true|false", retry)) == raised[code], code


@pytest.mark.parametrize("op", protocol.OPS)
def test_the_errors_of_an_op_exist(op: str) -> None:
    known = {*protocol.ErrorCode, *reasons("Conflict", False), *reasons("StorageFailed", True), *protocol.OPS}
    lists = re.findall(r"Errors: (.*?)(?:\n\n|\Z)", document.section(f"`{op}`"), re.DOTALL)
    named = re.findall(r"`(\w+)`", " ".join(lists))
    assert set(named) <= known


# --- values ---------------------------------------------------------------------------------------


def test_the_limits_are_the_protocols() -> None:
    table = document.table("Limits", "name")
    assert dict(zip(table.column(0), map(int, table.column(1)), strict=True)) == protocol.LIMITS


def test_the_sockets_are_the_protocols() -> None:
    rows = document.table("Sockets", "socket").rows
    assert [row[3].strip("`").rpartition("/")[2] for row in rows] == [
        protocol.COMMANDS_SOCKET,
        protocol.LIVE_SOCKET,
        protocol.EFFECTS_SOCKET,
    ]
    offsets = (0, protocol.LIVE_PORT_OFFSET, protocol.EFFECTS_PORT_OFFSET)
    assert [row[4] for row in rows] == [f"PORT + {offset}" if offset else "PORT" for offset in offsets]
    assert f"at most {protocol.IPC_PATH_BYTES_MAX} bytes" in document.section("Endpoints")


def test_the_options_are_those_of_our_own_sockets() -> None:
    shown = {
        (row[0], row[1]): row[2].removeprefix("some ")
        for row in document.table("Socket options", "socket").rows
    }
    assert int(shown["SUB", "RCVHWM"]) == sockets.LIVE_BUFFER_MAX
    assert int(shown["PULL", "RCVHWM"]) == sockets.EFFECTS_BUFFER_MAX


def test_the_events_and_their_topics_are_the_protocols() -> None:
    table = document.table("Events", "type")
    topics = (protocol.created_topic(7), protocol.message_topic(7), protocol.closed_topic(7))
    assert table.column(0) == list(protocol.EVENT_TYPES)
    assert [topic.replace("<session_id>", "7").encode() for topic in table.column(1)] == list(topics)
    others = [topic.replace("<token>", "t").encode() for topic in document.table("Live", "topic").column()]
    *others, welcome = others
    assert others == [protocol.HEARTBEAT_TOPIC, protocol.sync_topic("t"), protocol.GOODBYE_TOPIC]
    assert welcome == protocol.WELCOME_TOPIC + b"<epoch>"


def test_roles_and_features_are_the_protocols() -> None:
    (role,) = (row for row in document.table("Types", "type").rows if row[0] == "`role`")
    assert tuple(re.findall(r"`(\w+)`", role[2])) == protocol.ROLES
    assert document.table("Versions", "feature").column() == list(protocol.FEATURES)
    rows = document.table("Keys and roles", "role").rows
    assert [row[0].strip("`") for row in rows] == list(protocol.KEY_ROLES)
    needed = {op: row[0].strip("`") for row in rows for op in document.names(row[1])}
    assert needed == {op: fields.role for op, fields in protocol.OPS.items()}
    effects = [row[0].strip("`") for row in rows if "effects" in row[2]]
    assert tuple(effects) == authority.DOMAINS["effects"]
    assert protocol.PROTOCOL in document.headings()[0]


def test_the_settings_of_a_group_are_the_fields_that_create_it() -> None:
    settings = {
        name: (values, default)
        for name, values, default, _ in document.table("Settings of a group", "setting").rows
    }
    fields = {name: (type_, default) for name, type_, default in fields_of("create_group") if name != "group"}
    assert [name.strip("`") for name in settings] == list(fields)
    for name in ("max_attempts", "backoff_ms"):
        values, default = settings[f"`{name}`"]
        assert (values.replace(" to ", ".."), default) == (
            fields[name][0].removeprefix("int "),
            fields[name][1],
        )
    for name in ("ordered", "on_dead"):
        assert settings[f"`{name}`"][1] == fields[name][1]
    assert f"({protocol.BACKOFF_MS_MAX})" in document.section("Settings of a group")


def test_the_life_of_an_effect_knows_its_states() -> None:
    rows = document.table("Life of an effect", "state").rows
    assert {cell for row in rows for cell in row[:2]} == {
        *("in the log, behind the cursor", "waiting", "leased", "dead letter", "done")
    }


TIMES = {
    "between two heartbeats": protocol.HEARTBEAT_MS,
    "silence until the engine is taken for gone": protocol.HEARTBEAT_LOST_MS,
    "between two `sync` of a handshake": protocol.SYNC_RESEND_MS,
    "grace before a doubt becomes a loss": following.GRACE * 1000,
    "between two looks for an engine that is away": following.RETRY_PAUSE * 1000,
    "until a command is sent again, first": outbox.RESEND_FIRST * 1000,
    "until a command is sent again, at most": outbox.RESEND_MAX * 1000,
    "before a write is sent again after `shutting_down`": outbox.PAUSE * 1000,
    "deadline of a command, unless the caller says otherwise": client.TIMEOUT * 1000,
    "one poll for leases": working.POLL_MS,
    "between two attempts of a worker's command, first": working.RETRY_FIRST * 1000,
    "between two attempts of a worker's command, at most": working.RETRY_MAX * 1000,
    "a lease, unless asked otherwise": protocol.LEASE_MS_DEFAULT,
    "ZeroMQ heartbeats on TCP, interval": 5000,
    "ZeroMQ heartbeats on TCP, timeout": 15000,
    "for refusals and waiting replies at a shutdown, at most": loop.FINISH_MS,
}


def test_the_times_are_those_of_the_code() -> None:
    table = document.table("Times", "what")
    assert dict(zip(table.column(0), map(int, table.column(1)), strict=True)) == {
        name.strip("`"): value for name, value in TIMES.items()
    }


def test_times_within_sentences_are_in_the_table() -> None:
    named = {int(number) for number in re.findall(r"\b(\d+)\s+ms\b", document.text())}
    assert named
    assert named <= set(TIMES.values())


def test_the_states_and_reasons_of_health_are_the_codes() -> None:
    assert document.table("`health`", "reason").column()[1:] == list(Reason)
    (state,) = (row for row in document.table("`health`", "reply").rows if row[0] == "`state`")
    assert re.findall(r"`(\w+)`", state[2]) == list(State)


# --- names within sentences -----------------------------------------------------------------------

OTHER_NAMES = {
    *State,
    *Reason,
    *("snapshot_position", "snapshot_seq", "first_id", "first_seq", "first_at", "created_at", "died_at"),
    *("message_id", "journal_mode"),
}


def test_names_within_sentences_exist() -> None:
    known = {*protocol.OPS, *protocol.LIMITS, *protocol.ErrorCode, *protocol.EVENT_TYPES, *OTHER_NAMES}
    known |= {name for fields in protocol.OPS.values() for name in (*fields.required, *fields.optional)}
    known |= reasons("Conflict", False).keys() | reasons("StorageFailed", True).keys() | refusals().keys()
    known |= {name for op in protocol.OPS for name in replies_of(op)}
    known |= counters_and_gauges()
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", document.text()))
    assert len(named) > 60
    assert named <= known


def test_commands_within_sentences_have_fields_that_exist() -> None:
    commands = re.findall(r"`(\w+) \{([^`]*)\}`", document.text())
    assert len(commands) > 4
    for op, fields in commands:
        names = set(re.findall(r"(\w+)(?:: ?[^,]*)?(?:, |$)", fields))
        assert names <= {*protocol.OPS[op].required, *protocol.OPS[op].optional}, op


def test_links_within_the_page_lead_somewhere() -> None:
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in document.headings()}
    assert set(re.findall(r"\]\(#([^)]*)\)", document.text())) <= slugs
    listed = re.findall(r"\[([^\]]*)\]\(#", document.section("Contents"))
    chapters = re.findall(r"^## (.*)$", document.text(), re.MULTILINE)
    assert listed == [chapter for chapter in chapters if chapter != "Contents"]


# --- guarantees.md --------------------------------------------------------------------------------


def test_the_guarantees_name_tests_and_checks_that_exist() -> None:
    text = (DOCS / "guarantees.md").read_text("utf-8")
    named = set(re.findall(r"`(tests/[^`]*)`", text))
    assert len(named) > 20
    for pattern in named:
        assert list(DOCS.parent.glob(pattern.rstrip("/"))), pattern
    checks = set(re.findall(r"\*([^*\n]+)\*", text))
    assert checks
    assert checks <= set(CHECKS)
