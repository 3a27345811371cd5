"""Calls and replies as bytes: what is sent, what is understood, what is refused on the spot."""

from __future__ import annotations

import dataclasses
import pickle
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import msgpack
import pytest

import armin
from armin import calls, errors, group_calls, replies
from armin_broker import protocol

MESSAGE = {"id": 9, "session_id": 2, "seq": 3, "role": "tool", "content": "c", "created_at": 5}


def sent(call: calls.Call[Any]) -> dict[str, Any]:
    fields = msgpack.unpackb(call.encode())
    assert isinstance(fields, dict)
    return fields


def ok(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"ok": True, "position": 7, **fields})
    return packed


def failed(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"ok": False, "position": 7, "error": fields})
    return packed


# --- commands -------------------------------------------------------------------------------------


def test_fields_that_were_not_given_are_not_sent() -> None:
    assert sent(calls.ping()) == {"op": "ping"}
    assert sent(calls.append(1, "user", "hi", None, None, "k")) == {
        "op": "append",
        "session_id": 1,
        "role": "user",
        "content": "hi",
        "key": "k",
    }
    assert sent(calls.sessions(None, None, None, False)) == {"op": "sessions", "closed": False}


def test_zero_and_the_empty_string_are_sent() -> None:
    assert sent(calls.read(1, after=0, limit=0)) == {"op": "read", "session_id": 1, "after": 0, "limit": 0}
    assert sent(calls.create_session("", {}, "")) == {
        "op": "create_session",
        "name": "",
        "meta": {},
        "key": "",
    }


def test_every_call_uses_only_fields_that_the_protocol_names() -> None:
    made = [
        calls.hello(),
        calls.ping(),
        calls.sync("t"),
        calls.stats(),
        calls.health(),
        calls.refresh_snapshot(),
        calls.verify(1),
        calls.backup("n", 1),
        calls.create_session("n", {"a": 1}),
        calls.append(1, "user", "c", {"a": 1}, 1),
        calls.append_many(1, [armin.NewMessage("user", "c")], 1),
        calls.close_session(1),
        calls.session(1, "n"),
        calls.sessions(1, 1, 1, True),
        calls.tails([1]),
        calls.read(1, 1, 1, 1, "heal"),
        calls.snapshot(1, 1, 1),
        calls.delta(1, 1, 1, 1),
        calls.log(1, 1),
        group_calls.create_group("g", "begin", ["session_created"], True, 5, 1000, "skip"),
        group_calls.lease("g", 1, 30_000, 10, "t"),
        group_calls.ack("g", ["l"]),
        group_calls.nack("g", ["l"], "r", 0),
        group_calls.extend("g", ["l"], 10),
        group_calls.groups("g"),
        group_calls.dead_letters("g", 1, 1),
        group_calls.requeue("g", [1]),
        group_calls.discard("g", [1]),
        group_calls.drop_group("g"),
    ]
    assert {call.op for call in made} == set(protocol.OPS) - {"pipeline"}  # made by the outbox, of calls
    for call in made:
        fields = protocol.OPS[call.op]
        assert set(sent(call)) - {"op"} <= {*fields.required, *fields.optional}
        assert set(sent(call)) >= {"op", *fields.required}


def test_messages_may_be_maps_of_any_kind_or_new_messages() -> None:
    given = [
        {"role": "user", "content": "a", "meta": None},
        MappingProxyType({"role": "user", "content": "b", "meta": {"k": [1]}}),
        OrderedDict(role="tool", content="c"),
        armin.NewMessage("system", "d", {"x": True}),
        armin.NewMessage("system", "e"),
    ]
    assert sent(calls.append_many(1, iter(given), None))["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b", "meta": {"k": [1]}},
        {"role": "tool", "content": "c"},
        {"role": "system", "content": "d", "meta": {"x": True}},
        {"role": "system", "content": "e"},
    ]


GOOD = {"role": "user", "content": "a"}
CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: calls.append(1, "user", "a\ud800", None, None), "content"),
        (lambda: calls.append(1 << 64, "user", "a", None, None), "session_id"),
        (lambda: calls.append(1, "user", "a", {"deep": [{"k": 1 << 64}]}, None), "meta"),
        (lambda: calls.append(1, "user", "a", {"k": -(1 << 63) - 1}, None), "meta"),
        (lambda: calls.append(1, "user", "a", {"k": object()}, None), "meta"),
        (lambda: calls.append(1, "user", "a", CYCLE, None), "meta"),
        (lambda: calls.append(1, "user", "a", 5, None), "meta"),  # type: ignore[arg-type]
        (lambda: calls.append(1, "user", "a", [], None), "meta"),  # type: ignore[arg-type]
        (lambda: calls.create_session("a", [("k", 1)]), "meta"),  # type: ignore[arg-type]
        (lambda: calls.append_many(1, [[("role", "user")]], None), "messages[0]"),  # type: ignore[list-item]
        (lambda: calls.create_session("\udfff", None), "name"),
        (lambda: calls.append_many(1, [GOOD, {**GOOD, "content": "\ud800"}], None), "messages[1].content"),
        (lambda: calls.append_many(1, [{**GOOD, "meta": {"k": {1, 2}}}], None), "messages[0].meta"),
        (lambda: calls.append(1, "user", "a", {1: 2}, None), "meta"),  # type: ignore[dict-item]
        (lambda: calls.append(1, "user", "a", {"deep": ({"k": {b"b": 1}},)}, None), "meta"),
        (lambda: calls.create_session("a", {"k": [{None: 1}]}), "meta"),
        (lambda: calls.append_many(1, [GOOD, {**GOOD, "meta": {"k": {1: 2}}}], None), "messages[1].meta"),
        (lambda: calls.append_many(1, [7], None), "messages[0]"),  # type: ignore[list-item]
        (lambda: calls.tails([1 << 70]), "session_ids"),
    ],
)
def test_what_cannot_be_said_is_refused_here_and_the_field_named(make: Any, field: str) -> None:
    with pytest.raises(errors.BadRequest) as caught:
        make().encode()
    assert caught.value.field == field
    assert field in str(caught.value)
    assert caught.value.code == "bad_request"
    assert caught.value.position is None


def test_a_command_that_the_engine_would_cut_off_is_refused_here() -> None:
    with pytest.raises(errors.TooLarge) as caught:
        calls.append(1, "user", "x" * (protocol.COMMAND_BYTES_MAX + 1), {"k": 1}, None).encode()
    assert (caught.value.field, caught.value.limit) == ("content", protocol.COMMAND_BYTES_MAX)


# --- replies --------------------------------------------------------------------------------------


def test_a_message_has_all_its_fields() -> None:
    page = calls.read(2).decode(
        ok(messages=[MESSAGE, {**MESSAGE, "meta": {"k": 1}}], more=True, seq=4, closed=False)
    )
    assert page.messages == (
        armin.Message(9, 2, 3, "tool", "c", 5),
        armin.Message(9, 2, 3, "tool", "c", 5, {"k": 1}),
    )
    assert (page.more, page.seq, page.closed, page.position) == (True, 4, False, 7)


def test_unknown_fields_are_ignored_everywhere() -> None:
    reply = ok(messages=[{**MESSAGE, "later": 1}], more=False, seq=3, closed=True, also={"later": [1]})
    assert calls.read(2).decode(reply).messages == (armin.Message(9, 2, 3, "tool", "c", 5),)
    event = replies.event({"position": 1, "type": "session_closed", "session_id": 2, "later": 1})
    assert event == armin.Event(1, "session_closed", 2)


def test_an_elided_message_has_no_content_and_says_so() -> None:
    inner = {name: value for name, value in MESSAGE.items() if name != "content"}
    packed = {
        "position": 4,
        "type": "message_appended",
        "session_id": 2,
        "message": {**inner, "elided": True},
    }
    event = replies.event(packed)
    assert event.message == armin.Message(9, 2, 3, "tool", "", 5, None, True)
    assert event.created_at == 5


APPENDED = {"position": 4, "type": "message_appended", "session_id": 2, "message": MESSAGE}
LEASE = {"lease": "1.4.1", "position": 4, "attempt": 1, "until": 6, "event": APPENDED}


def read_page(item: Any) -> armin.Message:
    reply = ok(messages=[MESSAGE, item], more=False, seq=4, closed=False)
    return calls.read(2).decode(reply).messages[1]


def log_page(item: Any) -> armin.Event:
    return calls.log().decode(ok(events=[APPENDED, item], more=False)).events[1]


def leased(item: Any) -> armin.Lease:
    return group_calls.lease("g", 2, 10).decode(ok(leases=[LEASE, item])).leases[1]


def settled(item: Any) -> armin.Outcome:
    reply = ok(outcomes=[{"lease": "1.3.1", "ok": True}, item])
    return group_calls.ack("g", ["1.3.1", "1.4.1"]).decode(reply).outcomes[1]


EACH: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "message": (read_page, MESSAGE, armin.Message(9, 2, 3, "tool", "c", 5)),
    "event": (
        log_page,
        APPENDED,
        armin.Event(4, "message_appended", 2, armin.Message(9, 2, 3, "tool", "c", 5), 5),
    ),
    "lease": (
        leased,
        LEASE,
        armin.Lease(
            "1.4.1",
            4,
            1,
            6,
            armin.Event(4, "message_appended", 2, armin.Message(9, 2, 3, "tool", "c", 5), 5),
        ),
    ),
    "outcome": (settled, {"lease": "1.4.1", "ok": True}, armin.Outcome("1.4.1", ok=True)),
}
WRONG = {
    int: ["3", True, None, 1.0, [3], {}],
    str: [3, None, b"c", ["c"]],
    dict: [3, "c", [1], None],
    bool: [1],
}
WORDS = {int: "integer", str: "string", dict: "map", bool: "truth value"}


@pytest.mark.parametrize("kind", EACH)
def test_what_comes_in_pages_is_like_what_is_made_by_hand(kind: str) -> None:
    decode, fields, made = EACH[kind]
    result = decode(fields)
    assert type(result) is type(made)
    assert (result, repr(result), hash(result)) == (made, repr(made), hash(made))
    assert dataclasses.asdict(result) == dataclasses.asdict(made)
    assert dataclasses.replace(result) == made
    assert pickle.loads(pickle.dumps(result)) == made
    first = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, first, None)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (kind, field)
        for kind, (_, fields, _) in EACH.items()
        for field in fields
        if (kind, field) != ("event", "message")  # without one, it is an event of another type
    ],
)
def test_a_field_that_is_not_as_it_should_be_is_named_wherever_it_is(kind: str, field: str) -> None:
    decode, fields, _ = EACH[kind]
    known = type(fields[field])
    others = {name: value for name, value in fields.items() if name != field}
    for damaged in (others, *({**fields, field: value} for value in WRONG[known])):
        with pytest.raises(errors.ProtocolError, match=f"no {WORDS[known]} `{field}`"):
            decode(damaged)


@pytest.mark.parametrize("value", [3, "c", [1]])
def test_a_message_of_an_event_or_a_meta_that_is_no_map_is_named(value: Any) -> None:
    with pytest.raises(errors.ProtocolError, match="no map `message`"):
        log_page({**APPENDED, "message": value})
    with pytest.raises(errors.ProtocolError, match="no map `meta`"):
        read_page({**MESSAGE, "meta": value})


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("item", [None, 3, "c", [1], b"c"])
def test_what_is_no_map_among_others_is_a_protocol_error(kind: str, item: Any) -> None:
    with pytest.raises(errors.ProtocolError, match="holds something that is not a map"):
        EACH[kind][0](item)


@pytest.mark.parametrize("kind", EACH)
def test_what_comes_in_pages_may_have_fields_not_known_yet(kind: str) -> None:
    decode, fields, made = EACH[kind]
    assert decode({**fields, "later": {"any": 1}}) == made
    assert decode({"later": None, **dict(reversed(fields.items()))}) == made


def test_an_event_of_a_type_not_known_yet_is_an_event() -> None:
    event = replies.event({"position": 4, "type": "session_renamed", "session_id": 2})
    assert event == armin.Event(4, "session_renamed", 2)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\xc1",
        b"\x81\xa2ok",
        b"\x80\x80",
        b"\xa1\xff",
        msgpack.packb([1]),
        msgpack.packb({}),
        msgpack.packb({"ok": 1, "position": 1}),
        msgpack.packb({"ok": False}),
        msgpack.packb({"ok": False, "error": "no"}),
        msgpack.packb({"ok": False, "error": {"message": "no code"}}),
        msgpack.packb({"ok": False, "error": {"code": "conflict"}}),
        msgpack.packb({"ok": True}),
        msgpack.packb({"ok": True, "position": "7"}),
        msgpack.packb({"ok": True, "position": True}),
    ],
)
def test_a_reply_that_is_none_is_a_protocol_error(reply: bytes) -> None:
    with pytest.raises(errors.ProtocolError):
        calls.ping().decode(reply)


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (calls.read(1), {"messages": [1], "more": False, "seq": 0, "closed": False}),
        (calls.read(1), {"messages": [{**MESSAGE, "seq": "3"}], "more": False, "seq": 3, "closed": False}),
        (calls.read(1), {"messages": [], "more": 0, "seq": 3, "closed": False}),
        (calls.tails([1]), {"tails": [[1, 2]]}),
        (calls.tails([1]), {"tails": [[1, "2", False]]}),
        (calls.session(1, None), {"session": None}),
        (calls.hello(), {"protocol": "armin/1"}),
        (calls.append(1, "user", "a", None, None), {"id": 1}),
        (group_calls.lease("g", 1, 10), {"leases": [{"lease": "l", "position": 1}]}),
        (group_calls.ack("g", ["l"]), {"outcomes": [{"lease": "l", "ok": False}]}),
        (group_calls.groups(None), {"groups": [{"group": "g"}]}),
    ],
)
def test_a_reply_of_another_shape_is_a_protocol_error(call: calls.Call[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(errors.ProtocolError):
        call.decode(ok(**fields))


def test_an_engine_of_another_protocol_is_named() -> None:
    with pytest.raises(errors.ProtocolError, match="speaks 'armin/2', this client 'armin/1'"):
        calls.hello().decode(ok(protocol="armin/2"))


@pytest.mark.parametrize("code", list(protocol.ErrorCode))
def test_every_code_of_the_wire_has_a_class_of_its_own(code: protocol.ErrorCode) -> None:
    with pytest.raises(armin.ArminError) as caught:
        calls.ping().decode(
            failed(code=code.value, message="m", field="f", limit=3, reason="r", retry=True, later=1)
        )
    error = caught.value
    assert type(error) is not armin.ArminError
    assert type(error).default_code == code
    assert (error.code, error.message, str(error)) == (code, "m", "m")
    assert (error.field, error.limit, error.reason, error.retry, error.position) == ("f", 3, "r", True, 7)


def test_a_code_not_known_yet_is_an_error_of_the_base_class() -> None:
    with pytest.raises(armin.ArminError) as caught:
        calls.ping().decode(failed(code="too_tired", message="m", retry=True))
    assert type(caught.value) is armin.ArminError
    assert (caught.value.code, caught.value.retry) == ("too_tired", True)


def test_the_tree_at_the_top_of_the_errors_names_every_class() -> None:
    tree = (errors.__doc__ or "").split()
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, armin.ArminError)]
    assert len(classes) == 18
    for cls in classes:
        assert cls.__name__ in tree
        assert cls.__name__ in armin.__all__


# --- verify ---------------------------------------------------------------------------------------


STATE = {"job": 1, "done": False, "checked": 5, "total": 9, "position": 12}
DONE = {**STATE, "done": True, "checked": 9, "verified_position": 9, "equal": False, "differences": ["x"]}


def test_a_comparison_tells_how_far_it_is_and_that_it_is_done() -> None:
    told: list[tuple[int, int]] = []

    def progress(checked: int, total: int) -> None:
        told.append((checked, total))

    assert calls.verify_report({"job": 1}, progress) is None
    assert calls.verify_report(STATE, progress) is None
    assert calls.verify_report(DONE, progress) is not None
    assert told == [(5, 9), (9, 9)]


def test_a_comparison_that_is_done_reports_where_it_stood() -> None:
    assert calls.verify_report(DONE, None) == armin.VerifyReport(False, 9, 9, ("x",))


def test_differences_that_the_engine_left_out_are_counted() -> None:
    report = calls.verify_report({**DONE, "differences_count": 2001}, None)
    assert report == armin.VerifyReport(False, 9, 9, ("x", "and 2,000 more"))
