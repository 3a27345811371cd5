"""The kit finds engines that do not conform: one that passes is no proof unless a wrong one fails."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from armin.conformance.bench import Bench
from armin.conformance.running import Played, Verdict, play_all
from armin.errors import NoReply
from armin.target import find_target
from armin_broker import protocol
from conformance.bench_of import ENGINE_CASES, running_engine
from conformance.faulty import Altered, Fault, FaultyEngine, Fields

ANSWERED_S = 30.0  # for what is answered in the end
SILENT_S = 5.0  # for what a fault keeps silent about
# Cases in which every fault below shows; played through a proxy without a fault, too.
FILES = (
    "hello_ping",
    "append",
    "append_many",
    "close_session",
    "pipeline",
    "read",
    "keys",
    "sync_live",
    "leases",
    "values",
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="armin-") as directory:
        path = Path(directory) / "e"
        with running_engine(path):
            yield path


RUNS = iter(range(1000))


def played(
    engine: Path, directory: Path, fault: Fault, *only: str, timeout: float = ANSWERED_S
) -> list[Played]:
    cases = [case for case in ENGINE_CASES.values() if case.id in only or (not only and case.file in FILES)]
    with FaultyEngine(engine, directory / "f", fault):
        target = find_target(str(directory / "f"), {})
        with Bench(target, timeout, f"faulty{next(RUNS)}") as bench:
            return list(play_all(cases, bench))


def test_a_proxy_that_alters_nothing_passes(engine: Path, short_dir: Path) -> None:
    verdicts = {each.case.id: each.failures for each in played(engine, short_dir, Fault()) if each.failures}
    assert verdicts == {}


# --- replies --------------------------------------------------------------------------------------


def on(op: str, alter: Callable[[Fields], Any]) -> Fault:
    """A fault in the replies of one op that say ok."""
    return Fault(
        reply=lambda command, reply: alter(reply) if command.get("op") == op and reply["ok"] else reply
    )


def on_error(alter: Callable[[Fields], Any]) -> Fault:
    """A fault in every error."""
    return Fault(
        reply=lambda command, reply: {**reply, "error": alter(reply["error"])} if "error" in reply else reply
    )


def without(name: str) -> Callable[[Fields], Fields]:
    return lambda fields: {key: value for key, value in fields.items() if key != name}


def refused(code: str, position: int, **fields: str) -> Fields:
    error = {"code": code, "message": "no", "retry": False, **fields}
    return {"ok": False, "position": position, "error": error}


def with_messages(alter: Callable[[Fields], Fields]) -> Callable[[Fields], Fields]:
    return lambda reply: {**reply, "messages": [alter(message) for message in reply["messages"]]}


def sorted_maps(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_maps(value[key]) for key in sorted(value)}
    return [sorted_maps(item) for item in value] if isinstance(value, list) else value


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return min(int(float(value)), (1 << 63) - 1) if type(value) is int else value


REPLIES: dict[str, tuple[Fault, str, str]] = {
    "a_seq_too_high": (
        on("append", lambda r: {**r, "seq": r["seq"] + 1}),
        "append/the_first_message",
        "$.seq",
    ),
    "a_position_of_before": (
        on("append", lambda r: {**r, "position": r["position"] - 1}),
        "append/the_first_message",
        "$.position",
    ),
    "no_position": (
        on("ping", without("position")),
        "hello_ping/ping_answers_and_changes_nothing",
        "$.position",
    ),
    "no_position_in_an_error": (
        Fault(reply=lambda c, r: r if r["ok"] else without("position")(r)),
        "append/another_seq_than_expected",
        "$.position",
    ),
    "a_float_for_an_integer": (
        on("append", lambda r: {**r, "id": float(r["id"])}),
        "append/the_first_message",
        "$.id",
    ),
    "text_for_an_integer": (
        on("append", lambda r: {**r, "at": str(r["at"])}),
        "append/the_first_message",
        "$.at",
    ),
    "one_for_true": (on("read", lambda r: {**r, "more": int(r["more"])}), "read/forward", "$.more"),
    "ok_as_a_number": (
        on("ping", lambda r: {**r, "ok": 1}),
        "hello_ping/ping_answers_and_changes_nothing",
        "$.ok",
    ),
    "binary_for_text": (
        on("read", with_messages(lambda m: {**m, "content": m["content"].encode()})),
        "append/the_first_message",
        "$.messages[0].content",
    ),
    "seconds_for_milliseconds": (
        on("append", lambda r: {**r, "created_at": r["created_at"] // 1000}),
        "append/the_first_message",
        "$.created_at",
    ),
    "a_role_as_its_number": (
        on("read", with_messages(lambda m: {**m, "role": 0})),
        "append/every_role",
        "$.messages[0].role",
    ),
    "nil_for_an_absent_field": (
        on("read", with_messages(lambda m: {"meta": None, **m})),
        "append/the_first_message",
        "$.messages[0].meta",
    ),
    "a_meta_in_another_order": (on("read", sorted_maps), "append/with_a_meta", "$.messages[0].meta"),
    "an_integer_that_wasrounded": (
        on("read", rounded),
        "values/integers_in_a_meta",
        "$.messages[0].meta",
    ),
    "an_error_instead_of_ok": (
        on("append", lambda r: refused("internal", r["position"])),
        "append/the_first_message",
        "$.ok",
    ),
    "ok_instead_of_an_error": (
        Fault(reply=lambda c, r: r if r["ok"] else {"ok": True, "position": r["position"]}),
        "append/another_seq_than_expected",
        "$.ok",
    ),
    "another_code": (
        on_error(lambda e: {**e, "code": "bad_request"}),
        "append/another_seq_than_expected",
        "$.error.code",
    ),
    "no_reason": (on_error(without("reason")), "append/another_seq_than_expected", "$.error.reason"),
    "retry_where_it_is_useless": (
        on_error(lambda e: {**e, "retry": True}),
        "append/another_seq_than_expected",
        "$.error.retry",
    ),
    "an_error_without_words": (
        on_error(lambda e: {**e, "message": ""}),
        "append/another_seq_than_expected",
        "$.error.message",
    ),
    "an_array_for_a_map": (on("ping", list), "hello_ping/ping_answers_and_changes_nothing", "not a map"),
    "a_page_in_reverse": (
        on("read", lambda r: {**r, "messages": r["messages"][::-1]}),
        "read/forward",
        "$.messages[0].seq",
    ),
    "a_page_with_one_too_many": (
        on("read", lambda r: {**r, "messages": [*r["messages"], *r["messages"][-1:]]}),
        "read/forward",
        "$.messages",
    ),
    "a_duplicate_that_is_not_said": (
        on("append", without("duplicate")),
        "keys/the_same_append_again",
        "$.duplicate",
    ),
    "leases_in_seconds": (
        on(
            "lease",
            lambda r: {**r, "leases": [{**lease, "until": lease["until"] - 29_000} for lease in r["leases"]]},
        ),
        "leases/an_effect_is_leased_and_acknowledged",
        "$.leases[0].until",
    ),
    "outcomes_in_another_order": (
        on("nack", lambda r: {**r, "outcomes": r["outcomes"][::-1]}),
        "leases/an_outcome_for_each_lease_in_order",
        "$.outcomes[0].lease",
    ),
}


# --- frames ---------------------------------------------------------------------------------------


def reordered() -> Fault:
    """Each second reply to an append comes before the one in front of it."""
    held: Altered = []

    def swap(command: Fields, envelope: list[bytes], reply: bytes) -> Altered:
        if command.get("op") != "append":
            return [(envelope, reply)]
        held.append((envelope, reply))
        if len(held) < 2:
            return []
        pair = held[::-1]
        held.clear()
        return pair

    return Fault(frames=swap)


FRAMES: dict[str, tuple[Fault, str, str]] = {
    "replies_in_another_order": (reordered(), "append/many_in_flight_keep_their_order", "before command"),
    "a_reply_in_another_envelope": (
        Fault(frames=lambda c, e, r: [([*e[:-1], b"77"] if c.get("op") == "read" else e, r)]),
        "read/an_empty_session",
        "in which no command waits",
    ),
    "a_reply_without_its_envelope": (
        Fault(frames=lambda c, e, r: [([] if c.get("op") == "read" else e, r)]),
        "read/an_empty_session",
        "in which no command waits",
    ),
    "a_reply_that_comes_twice": (
        Fault(frames=lambda c, e, r: [(e, r)] * (2 if c.get("op") == "read" else 1)),
        "read/forward",
        "in which no command waits",
    ),
    "a_last_reply_that_comes_twice": (
        Fault(frames=lambda c, e, r: [(e, r)] * (2 if c.get("op") == "read" else 1)),
        "read/an_empty_session",
        "peer main: expected one reply to each command",
    ),
    "a_reply_that_is_no_msgpack": (
        Fault(frames=lambda c, e, r: [(e, b"\xc1" if c.get("op") == "read" else r)]),
        "read/an_empty_session",
        "not msgpack",
    ),
    "bytes_behind_a_reply": (
        Fault(frames=lambda c, e, r: [(e, r + b"\x00" if c.get("op") == "read" else r)]),
        "read/an_empty_session",
        "not msgpack",
    ),
    "no_reply": (
        Fault(frames=lambda c, e, r: [] if c.get("op") == "read" else [(e, r)]),
        "read/an_empty_session",
        "nothing within 5 s",
    ),
}


# --- what is done ---------------------------------------------------------------------------------


def twice(command: Fields) -> Fields:
    """Appends of one message commit two."""
    if command.get("op") == "append" and "content" in command and command.get("role") == "user":
        message = {"role": command["role"], "content": command["content"]}
        return {"op": "append_many", "session_id": command["session_id"], "messages": [message, message]}
    return command


DEEDS: dict[str, tuple[Fault, str, str]] = {
    "keys_that_are_ignored": (Fault(command=without("key")), "keys/the_same_append_again", "$.id"),
    "what_must_be_there_is_not_looked_for": (
        Fault(command=without("after_key")),
        "keys/a_write_whose_predecessor_is_missing",
        "$[0].ok",
    ),
    "an_expected_seq_is_not_looked_at": (
        Fault(command=without("expect_seq")),
        "append/another_seq_than_expected",
        "$.ok",
    ),
    "one_message_too_many": (
        Fault(command=twice, reply=lambda c, r: _as_append(r) if c.get("op") == "append" else r),
        "append/every_role",
        "events",
    ),
    "limits_of_a_page_are_ignored": (
        Fault(command=without("limit")),
        "read/forward",
        "$.messages",
    ),
    "unknown_fields_are_taken": (
        Fault(command=without("bogus")),
        "error_bad_request/an_unknown_field",
        "$.ok",
    ),
    "an_error_that_commits": (
        Fault(
            command=lambda c: {**c, "role": "user"} if c.get("role") == "robot" else c,
            reply=lambda c, r: _refused(r) if c.get("role") == "robot" and r["ok"] else r,
        ),
        "values/a_role_is_its_name",
        "events",
    ),
    "a_close_that_is_not_done": (
        Fault(
            command=lambda c: {"op": "ping"} if c.get("op") == "close_session" else c,
            reply=lambda c, r: {**r, "at": r["position"] + 1} if c.get("op") == "close_session" else r,
        ),
        "close_session/a_session_is_closed",
        "$.position",
    ),
}


def _as_append(reply: Fields) -> Fields:
    names = {"first_id": "id", "first_seq": "seq", "first_at": "at"}
    return {names.get(name, name): value for name, value in reply.items() if name != "count"}


def _refused(reply: Fields) -> Fields:
    return refused("bad_request", reply["position"], field="role")


# --- pipelines ----------------------------------------------------------------------------------------


def in_replies(alter: Callable[[list[Fields]], list[Fields]]) -> Fault:
    """A fault in the replies of a pipeline."""
    return on("pipeline", lambda reply: {**reply, "replies": alter(reply["replies"])})


def in_commands(alter: Callable[[list[Any]], list[Any]]) -> Fault:
    """A fault in what is done of a pipeline."""
    return Fault(
        command=lambda c: (
            {**c, "commands": alter(c["commands"])}
            if c.get("op") == "pipeline" and isinstance(c.get("commands"), list)
            else c
        )
    )


def first_error_for_all(reply: Fields) -> Fields:
    return next((each for each in reply["replies"] if not each["ok"]), reply)


def fine(reply: Fields) -> Fields:
    return {"ok": True, "position": reply["position"]}


def opened(commands: list[Any]) -> list[Any]:
    """What is nested is done in the place of the nested one."""
    return [
        each["commands"][0] if isinstance(each, dict) and each.get("commands") else each for each in commands
    ]


def as_nested(command: Fields, reply: Fields) -> Fields:
    """Every write that stood in a nested pipeline is said to be refused."""
    if command.get("op") != "pipeline" or not reply["ok"]:
        return reply
    refusal = refused("bad_request", reply["position"], field="op")
    pairs = zip(command["commands"], reply["replies"], strict=True)
    return {**reply, "replies": [refusal if "commands" in part else each for part, each in pairs]}


def all_refused(position: int) -> Fields:
    """What nothing but bad commands come to."""
    errors = [refused("bad_request", position, field="role"), refused("session_not_found", position)]
    return {"ok": True, "position": position, "replies": errors}


def without_keys(commands: list[Any]) -> list[Any]:
    return [without("key")(each) if isinstance(each, dict) else each for each in commands]


PIPELINES: dict[str, tuple[Fault, str, str]] = {
    "replies_of_a_pipeline_in_another_order": (
        in_replies(lambda replies: replies[::-1]),
        "pipeline/several_sessions",
        "$.replies[0].seq",
    ),
    "one_reply_too_few": (
        in_replies(lambda replies: [reply for reply in replies if reply["ok"]]),
        "pipeline/bad_commands_among_good_ones",
        "$.replies",
    ),
    "one_bad_command_that_fails_all": (
        on("pipeline", first_error_for_all),
        "pipeline/bad_commands_among_good_ones",
        "$.ok",
    ),
    "commands_behind_a_bad_one_that_are_not_done": (
        in_commands(lambda commands: commands[: 1 + [c["role"] for c in commands].index("robot")]),
        "pipeline/all_behind_a_refused_one_are_out_of_order",
        "$.replies",
    ),
    "ok_for_a_nested_pipeline": (
        in_replies(lambda replies: [r if r["ok"] else fine(r) for r in replies]),
        "pipeline/a_pipeline_within_a_pipeline",
        "$.replies[1].ok",
    ),
    "a_nested_pipeline_that_is_done_though_refused": (
        Fault(command=in_commands(opened).command, reply=as_nested),
        "pipeline/a_pipeline_within_a_pipeline",
        "$.replies[4].seq",
    ),
    "ok_for_a_read_in_a_pipeline": (
        in_replies(lambda replies: [r if r["ok"] else fine(r) for r in replies]),
        "pipeline/what_is_no_write_is_refused_in_its_place",
        "$.replies[1].ok",
    ),
    "ok_for_a_creation_in_a_pipeline": (
        in_replies(lambda replies: [r if r["ok"] else fine(r) for r in replies]),
        "pipeline/a_creation_is_refused_in_its_place",
        "$.replies[1].ok",
    ),
    "what_is_no_map_that_is_left_out": (
        in_commands(lambda commands: [each for each in commands if isinstance(each, dict)]),
        "pipeline/what_is_no_map_fails_it_as_a_whole",
        "$.ok",
    ),
    "keys_that_are_ignored_in_a_pipeline": (
        in_commands(without_keys),
        "pipeline/the_same_key_twice_within",
        "$.replies[1].id",
    ),
    "commands_over_the_limit_that_are_left_out": (
        in_commands(lambda commands: commands[: protocol.PIPELINE_COMMANDS_MAX]),
        "limits/pipeline_commands",
        "$.ok",
    ),
    "an_empty_pipeline_that_is_taken": (
        Fault(reply=lambda c, r: {**fine(r), "replies": []} if c.get("commands") == [] else r),
        "pipeline/no_commands_at_all",
        "$.ok",
    ),
    "a_reply_within_that_has_no_position": (
        in_replies(lambda replies: [without("position")(reply) for reply in replies]),
        "pipeline/one_command",
        "$.replies[0].position",
    ),
    "a_reply_within_that_is_ahead": (
        in_replies(lambda replies: [{**reply, "position": reply["position"] + 1} for reply in replies]),
        "pipeline/one_command",
        "$.replies[0].position",
    ),
    "an_error_within_without_words": (
        in_replies(lambda rs: [{**r, "error": {**r["error"], "message": ""}} for r in rs]),
        "pipeline/nothing_but_bad_commands",
        "$.replies[0].error.message",
    ),
    "a_pipeline_of_errors_that_commits": (
        Fault(
            command=lambda c: {"op": "create_session"} if "robot" in str(c.get("commands")) else c,
            reply=lambda c, r: all_refused(r["position"] - 1) if "robot" in str(c.get("commands")) else r,
        ),
        "pipeline/nothing_but_bad_commands",
        "as every reply is an error",
    ),
}


# --- the live socket --------------------------------------------------------------------------------


def on_appends(alter: Callable[[bytes, Fields], list[tuple[bytes, Fields]]]) -> Fault:
    """A fault in the events of appended messages."""
    return Fault(
        event=lambda topic, event: alter(topic, event) if topic.startswith(b"message/") else [(topic, event)]
    )


def in_message(**fields: Any) -> Fault:
    return on_appends(lambda topic, event: [(topic, {**event, "message": {**event["message"], **fields}})])


EVENTS: dict[str, tuple[Fault, str, str]] = {
    "an_event_that_is_dropped": (on_appends(lambda t, e: []), "append/the_first_message", "live"),
    "an_event_that_comes_twice": (on_appends(lambda t, e: [(t, e)] * 2), "append/the_first_message", "live"),
    "an_event_of_another_position": (
        on_appends(lambda t, e: [(t, {**e, "position": e["position"] + 1})]),
        "append/the_first_message",
        "live[0].position",
    ),
    "an_event_that_is_not_as_in_the_log": (
        in_message(content="other"),
        "append/the_first_message",
        "live[0]",
    ),
    "a_text_for_an_integer_in_an_event": (in_message(seq="1"), "append/the_first_message", "live[0]"),
    "a_topic_without_its_slash": (
        on_appends(lambda t, e: [(t.rstrip(b"/"), e)]),
        "append/the_first_message",
        "its topic",
    ),
    "a_topic_of_another_session": (
        on_appends(lambda t, e: [(b"message/1234567/", e)]),
        "append/the_first_message",
        "its topic",
    ),
    "a_heartbeat_ahead_of_the_events": (
        Fault(event=lambda t, e: [(t, {**e, "position": e["position"] + 1} if t == b"heartbeat/" else e)]),
        "sync_live/a_heartbeat_every_second",
        "position",
    ),
    "no_heartbeat": (
        Fault(event=lambda t, e: [] if t == b"heartbeat/" else [(t, e)]),
        "sync_live/a_heartbeat_every_second",
        "live[0]",
    ),
    "a_sync_of_another_engine": (
        Fault(event=lambda t, e: [(t, {**e, "engine": "other"})]),
        "sync_live/a_token_comes_back_live",
        "live[0]",
    ),
}

FAULTS = REPLIES | FRAMES | DEEDS | PIPELINES | EVENTS
# Faults that show in what does not come.
SILENT = {"no_reply", "no_heartbeat", "a_heartbeat_ahead_of_the_events", "a_sync_of_another_engine"}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_is_found_where_it_shows(engine: Path, short_dir: Path, name: str) -> None:
    fault, case, expected = FAULTS[name]
    timeout = SILENT_S if name in SILENT else ANSWERED_S
    (result,) = played(engine, short_dir, fault, case, timeout=timeout)
    assert result.verdict is Verdict.FAILED
    assert expected in str(result.failures[0]), result.failures


def test_an_engine_that_says_nothing_to_sync_fails_at_once(engine: Path, short_dir: Path) -> None:
    deaf = Fault(event=lambda topic, event: [] if topic.startswith(b"~sync/") else [(topic, event)])
    with pytest.raises(NoReply, match="live socket"):
        played(engine, short_dir, deaf, "hello_ping/hello_names_the_engine", timeout=SILENT_S)


def test_an_engine_without_a_feature_is_not_asked_for_it(engine: Path, short_dir: Path) -> None:
    lesser = on("hello", lambda reply: {**reply, "features": ["names", "meta"]})
    cases = (
        "keys/the_same_append_again",
        "leases/two_groups_have_all_of_it",
        "pipeline/one_command",
        "read/forward",
        "create_session/an_empty_meta_is_a_meta",
    )
    verdicts = {
        each.case.id: (each.verdict, each.reason) for each in played(engine, short_dir, lesser, *cases)
    }
    assert verdicts == {
        "create_session/an_empty_meta_is_a_meta": (Verdict.PASSED, ""),
        "keys/the_same_append_again": (Verdict.NOT_PLAYED, "the engine does not name the feature keys"),
        "leases/two_groups_have_all_of_it": (
            Verdict.NOT_PLAYED,
            "the engine does not name the feature groups",
        ),
        "pipeline/one_command": (
            Verdict.NOT_PLAYED,
            "the engine does not name the feature pipeline",
        ),
        "read/forward": (Verdict.PASSED, ""),
    }
