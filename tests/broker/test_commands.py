"""Parsing: the typed command, or an error that names the field and the limit."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from armin_broker import protocol
from armin_broker.commands import Barrier, Read, UnknownOp, Write, parse
from armin_broker.parsed import Pipeline
from armin_engine.errors import BadRequest, CommandError, EngineError, TooLarge
from armin_engine.records import Append, CloseSession, CreateSession


def packed(**fields: Any) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


def refusal(**fields: Any) -> CommandError:
    with pytest.raises(CommandError) as caught:
        parse(packed(**fields))
    return caught.value


APPEND: dict[str, Any] = {"op": "append", "session_id": 1, "role": "user", "content": "x"}


def test_writes_become_engine_commands() -> None:
    write = parse(packed(**APPEND, meta={"a": 1}, expect_seq=4))
    assert isinstance(write, Write)
    assert isinstance(write.command, Append)
    assert (write.command.session_id, write.command.expect_seq) == (1, 4)
    (message,) = write.command.messages
    assert (message.role, message.content) == (0, "x")
    assert message.meta is not None
    assert message.meta.json == '{"a":1}'
    create = parse(packed(op="create_session", name="n"))
    assert isinstance(create, Write)
    assert create.command == CreateSession("n", None)
    close = parse(packed(op="close_session", session_id=3))
    assert isinstance(close, Write)
    assert close.command == CloseSession(3)


def test_an_absent_optional_field_may_be_given_as_nil() -> None:
    write = parse(packed(**APPEND, meta=None, expect_seq=None))
    assert isinstance(write, Write)
    assert isinstance(parse(packed(op="read", session_id=1, after=None, limit=None)), Read)


@pytest.mark.parametrize("op", ["refresh_snapshot", "sync"])
def test_barriers_are_barriers(op: str) -> None:
    assert isinstance(parse(packed(op=op, **({"token": "t"} if op == "sync" else {}))), Barrier)


@pytest.mark.parametrize("op", sorted(protocol.OPS))
def test_an_unknown_field_is_an_error_that_names_it(op: str) -> None:
    error = refusal(op=op, bogus=1)
    assert isinstance(error, BadRequest)
    assert error.field == "bogus"


@pytest.mark.parametrize(
    ("op", "field"), [(op, fields.required[0]) for op, fields in protocol.OPS.items() if fields.required]
)
def test_a_missing_field_is_named(op: str, field: str) -> None:
    assert refusal(op=op).field == field


def test_an_unknown_op_has_its_own_code() -> None:
    error = refusal(op="x" * 1000)
    assert isinstance(error, UnknownOp)
    assert len(error.message) < 200


@pytest.mark.parametrize("op", [None, 1, b"ping", ["ping"]])
def test_op_must_be_a_string(op: object) -> None:
    assert refusal(op=op).field == "op"
    with pytest.raises(BadRequest):
        parse(packed(session_id=1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"session_id": 0}, "session_id"),
        ({"session_id": -1}, "session_id"),
        ({"session_id": 1 << 63}, "session_id"),
        ({"session_id": True}, "session_id"),
        ({"session_id": 1.0}, "session_id"),
        ({"session_id": "1"}, "session_id"),
        ({"session_id": None}, "session_id"),
        ({"role": "robot"}, "role"),
        ({"role": 0}, "role"),
        ({"role": None}, "role"),
        ({"role": ["user"]}, "role"),
        ({"content": None}, "content"),
        ({"content": b"bytes"}, "content"),
        ({"content": 7}, "content"),
        ({"content": {}}, "content"),
        ({"meta": []}, "meta"),
        ({"meta": "x"}, "meta"),
        ({"meta": {"a": b"x"}}, "meta"),
        ({"meta": {"a": float("nan")}}, "meta"),
        ({"meta": {"a": float("inf")}}, "meta"),
        ({"meta": {"a": 1 << 63}}, "meta"),
        ({"meta": {"a": msgpack.ExtType(5, b"x")}}, "meta"),
        ({"meta": {"a": msgpack.Timestamp(1)}}, "meta"),
        ({"expect_seq": 0}, "expect_seq"),
        ({"expect_seq": "1"}, "expect_seq"),
    ],
)
def test_a_value_of_the_wrong_shape_is_named(change: dict[str, Any], field: str) -> None:
    error = refusal(**{**APPEND, **change})
    assert (error.code, error.field) == ("bad_request", field)


def test_values_over_their_limits_name_field_and_limit() -> None:
    error = refusal(**{**APPEND, "content": "x" * (protocol.CONTENT_BYTES_MAX + 1)})
    assert (error.code, error.field, error.limit) == ("too_large", "content", protocol.CONTENT_BYTES_MAX)
    error = refusal(**APPEND, meta={"a": "x" * protocol.META_BYTES_MAX})
    assert (error.code, error.field, error.limit) == ("too_large", "meta", protocol.META_BYTES_MAX)
    deep: dict[str, Any] = {}
    for _ in range(protocol.META_DEPTH_MAX):
        deep = {"a": deep}
    error = refusal(**APPEND, meta=deep)
    assert (error.code, error.field, error.limit) == ("too_large", "meta", protocol.META_DEPTH_MAX)
    error = refusal(op="create_session", name="é" * 257)
    assert (error.code, error.field, error.limit) == ("too_large", "name", protocol.NAME_BYTES_MAX)
    error = refusal(op="tails", session_ids=[1] * (protocol.TAILS_MAX + 1))
    assert (error.code, error.field, error.limit) == ("too_large", "session_ids", protocol.TAILS_MAX)


def test_values_at_their_limits_are_taken() -> None:
    parse(packed(**{**APPEND, "content": "x" * protocol.CONTENT_BYTES_MAX}))
    parse(packed(**{**APPEND, "session_id": protocol.ID_MAX}))
    parse(packed(**APPEND, meta={"a": "x" * (protocol.META_BYTES_MAX - len('{"a":""}'))}))
    parse(packed(op="create_session", name="é" * 256))
    parse(packed(op="sync", token="a" * protocol.SYNC_TOKEN_MAX))


def test_a_batch_names_the_message_at_fault() -> None:
    good = {"role": "user", "content": ""}
    batch: dict[str, Any] = {"op": "append_many", "session_id": 1}
    assert refusal(**batch, messages=[good, {"role": "user"}]).field == "messages[1].content"
    assert refusal(**batch, messages=[good, {**good, "x": 1}]).field == "messages[1].x"
    assert refusal(**batch, messages=[good, 7]).field == "messages[1]"
    assert refusal(**batch, messages=[good, {**good, "meta": 1}]).field == "messages[1].meta"
    assert refusal(**batch, messages=[]).field == "messages"
    assert refusal(**batch, messages={}).field == "messages"
    assert isinstance(parse(packed(**batch, messages=[good] * protocol.BATCH_MESSAGES_MAX)), Write)


def test_a_batch_over_its_limits_is_too_large() -> None:
    batch: dict[str, Any] = {"op": "append_many", "session_id": 1}
    error = refusal(**batch, messages=[{"role": "user", "content": ""}] * (protocol.BATCH_MESSAGES_MAX + 1))
    assert isinstance(error, TooLarge)
    assert error.limit == protocol.BATCH_MESSAGES_MAX
    half = {"role": "user", "content": "x" * (protocol.BATCH_BYTES_MAX // 2 + 1)}
    error = refusal(**batch, messages=[half, half])
    assert (error.field, error.limit) == ("messages", protocol.BATCH_BYTES_MAX)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"op": "read", "session_id": 1, "limit": 0}, "limit"),
        ({"op": "read", "session_id": 1, "limit": -1}, "limit"),
        ({"op": "read", "session_id": 1, "limit": "9"}, "limit"),
        ({"op": "read", "session_id": 1, "after": -1}, "after"),
        ({"op": "read", "session_id": 1, "before": 0}, "before"),
        ({"op": "read", "session_id": 1, "after": 1, "before": 2}, "before"),
        ({"op": "read", "session_id": 1, "reason": 1}, "reason"),
        ({"op": "sessions", "closed": 1}, "closed"),
        ({"op": "sessions", "after": 1, "before": 2}, "before"),
        ({"op": "log", "after": 1 << 63}, "after"),
        ({"op": "session"}, "session_id"),
        ({"op": "session", "session_id": 1, "name": "n"}, "session_id"),
        ({"op": "session", "name": ""}, "name"),
        ({"op": "tails", "session_ids": 1}, "session_ids"),
        ({"op": "tails", "session_ids": [1, 0]}, "session_ids[1]"),
        ({"op": "sync", "token": ""}, "token"),
        ({"op": "sync", "token": "A"}, "token"),
        ({"op": "sync", "token": "a/b"}, "token"),
        ({"op": "sync", "token": "a\n"}, "token"),
        ({"op": "sync", "token": "a" * 65}, "token"),
        ({"op": "delta", "session_id": 1, "snapshot_position": -1}, "snapshot_position"),
        ({"op": "verify", "job": 0}, "job"),
        ({"op": "create_session", "name": ""}, "name"),
        ({"op": "create_session", "name": 5}, "name"),
        ({"op": "create_session", "meta": 5}, "meta"),
    ],
)
def test_reads_and_the_rest_name_the_field(fields: dict[str, Any], field: str) -> None:
    error = refusal(**fields)
    assert (error.code, error.field) == ("bad_request", field)


def test_a_limit_over_the_maximum_is_clamped() -> None:
    assert isinstance(parse(packed(op="read", session_id=1, limit=1 << 62)), Read)


# --- pipelines ------------------------------------------------------------------------------------

CLOSE = {"op": "close_session", "session_id": 1}
PARTS = ("append", "append_many", "close_session")


def parts(*commands: Any) -> tuple[Write | EngineError, ...]:
    pipeline = parse(packed(op="pipeline", commands=list(commands)))
    assert isinstance(pipeline, Pipeline)
    return pipeline.parts


def said(error: object) -> tuple[str, str, str | None, int | None]:
    assert isinstance(error, CommandError)
    return error.code, error.message, error.field, error.limit


def test_a_pipeline_is_its_writes_in_order() -> None:
    batch = {"op": "append_many", "session_id": 2, "messages": [{"role": "tool", "content": ""}], "key": "k"}
    commands = [APPEND, batch, CLOSE, {**APPEND, "after_key": "k"}]
    commands += [{**APPEND, "key": "ä", "after_key": None}, {**APPEND, "content": "ä", "meta": None}]
    commands += [{**APPEND, "key": "k", "after_key": "ä", "expect_seq": 7, "meta": {"a": 1}}]
    made = [part.command for part in parts(*commands) if isinstance(part, Write)]
    alone = [parse(packed(**command)) for command in commands]
    assert made == [write.command for write in alone if isinstance(write, Write)]
    assert len(made) == len(commands)


@pytest.mark.parametrize("op", sorted(protocol.OPS.keys() - set(PARTS)))
def test_what_is_no_write_of_a_session_is_refused_in_its_place_whatever_else_is_wrong_with_it(
    op: str,
) -> None:
    for odd in ({"op": op}, {"op": op, "bogus": 1}, {"op": op, "session_id": 1}):
        first, refused, last = parts(APPEND, odd, CLOSE)
        assert said(refused)[::2] == ("bad_request", "op")
        assert isinstance(first, Write)
        assert isinstance(last, Write)


@pytest.mark.parametrize("odd", [None, 0, 1.5, False, "append", b"\x80", [], [APPEND]])
def test_a_pipeline_that_holds_what_is_no_map_is_refused_as_a_whole(odd: Any) -> None:
    error = refusal(op="pipeline", commands=[APPEND, odd, {}, CLOSE])
    assert said(error)[::2] == ("bad_request", "commands")


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"op": None},
        {"op": ["append"]},
        {"op": "nonsense"},
        {"op": "append"},
        {**APPEND, "bogus": 1},
        {**APPEND, "role": "robot"},
        {**APPEND, "role": ["user"]},
        {**APPEND, "content": None},
        {**APPEND, "content": "x" * (protocol.CONTENT_BYTES_MAX + 1)},
        {**APPEND, "session_id": 1 << 63},
        {**APPEND, "session_id": True},
        {**APPEND, "session_id": 0},
        {**APPEND, "meta": {"a": b""}},
        {**APPEND, "key": "k" * (protocol.KEY_BYTES_MAX + 1)},
        {**APPEND, "key": ""},
        {**APPEND, "after_key": b"k"},
        {**APPEND, "meta": {"a": "x" * protocol.META_BYTES_MAX}},
        {"op": "append_many", "session_id": 1, "messages": [{"role": "user", "content": ""}, 5]},
        {**CLOSE, "key": "k"},
    ],
)
def test_an_error_in_a_pipeline_is_the_one_of_the_command_by_itself(bad: dict[str, Any]) -> None:
    with pytest.raises(CommandError) as alone:
        parse(packed(**bad))
    first, refused, last = parts(APPEND, bad, CLOSE)
    assert said(refused) == said(alone.value)
    assert isinstance(first, Write)
    assert isinstance(last, Write)


def test_an_error_in_a_pipeline_keeps_nothing_of_its_command() -> None:
    (refused,) = parts({**APPEND, "role": "robot"})
    assert isinstance(refused, CommandError)
    assert refused.__traceback__ is None, "its frames would hold the command until it is answered"


@pytest.mark.parametrize("commands", [[], None, {}, {"0": APPEND}, "append", b"\x90", 1, True, 1.0])
def test_a_pipeline_without_an_array_of_commands_is_refused_as_a_whole(commands: Any) -> None:
    error = refusal(op="pipeline", commands=commands)
    assert (error.code, error.field) == ("bad_request", "commands")


def test_the_commands_of_a_pipeline_are_counted_before_they_are_looked_at() -> None:
    most = protocol.PIPELINE_COMMANDS_MAX
    assert len(parts(*[APPEND] * most)) == most
    for command in (APPEND, None):
        error = refusal(op="pipeline", commands=[command] * (most + 1))
        assert said(error)[::2] == ("too_large", "commands")
        assert error.limit == most


NESTED = b"\x82\xa2op\xa8pipeline\xa8commands\x91"


@pytest.mark.parametrize("depth", [2, 3, 500])
def test_a_pipeline_within_a_pipeline_is_refused_in_its_place_at_any_depth(depth: int) -> None:
    pipeline = parse(NESTED * depth + packed(**APPEND))
    assert isinstance(pipeline, Pipeline)
    (refused,) = pipeline.parts
    assert said(refused)[::2] == ("bad_request", "op")


@pytest.mark.parametrize("depth", [513, 2000, 100_000])
def test_what_is_nested_too_deeply_to_be_decoded_is_refused_as_a_whole(depth: int) -> None:
    with pytest.raises(BadRequest, match="nested too deeply"):
        parse(NESTED * depth + packed(**APPEND))


def test_values_are_counted_over_all_commands_of_a_pipeline() -> None:
    message = {"role": "user", "content": ""}
    batch = {"op": "append_many", "session_id": 1, "messages": [message] * 10_000}
    assert len(parts(*[batch] * 4)) == 4
    error = refusal(op="pipeline", commands=[batch] * 5)
    assert (error.code, error.field) == ("too_large", "command_nodes")
