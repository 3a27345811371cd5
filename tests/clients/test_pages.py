"""Replies and events that are read at once: the same results as field by field, and the same refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import armin
from armin import calls, group_calls, pages, replies
from armin.errors import ArminError
from harness import Engine

INTEGER = st.integers(-(1 << 63), (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | INTEGER | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
META = st.dictionaries(TEXT, JSON, max_size=3)


# --- what an engine can send ----------------------------------------------------------------------


def maps(optional: dict[str, st.SearchStrategy[Any]], /, **fields: st.SearchStrategy[Any]) -> Any:
    """Maps of these fields, with or without those in `optional`, in any order."""
    in_order = st.fixed_dictionaries(fields, optional=optional)
    return in_order.flatmap(lambda made: st.permutations(list(made.items())).map(dict))


HEAD = {"id": INTEGER, "session_id": INTEGER, "seq": INTEGER, "role": TEXT, "created_at": INTEGER}
MESSAGES = maps({"meta": META}, **HEAD, content=TEXT)
EVENT = {"position": INTEGER, "session_id": INTEGER}
EVENTS = (
    maps({}, **EVENT, type=st.just("message_appended"), message=MESSAGES)
    | maps({"name": TEXT, "meta": META}, **EVENT, type=st.just("session_created"), created_at=INTEGER)
    | maps({}, **EVENT, type=st.just("session_closed"))
)
ELIDED = maps({}, **EVENT, type=st.just("message_appended"), message=maps({}, **HEAD, elided=st.just(True)))
LEASE = {"lease": TEXT, "position": INTEGER, "attempt": INTEGER, "until": INTEGER}
SETTLED = maps(
    {"duplicate": st.just(True), "dead": st.just(True), "until": INTEGER}, lease=TEXT, ok=st.just(True)
)
REFUSED = st.fixed_dictionaries(
    {"lease": TEXT, "ok": st.just(False), "error": st.just({"code": "lease_lost", "message": "m"})}
)


def replying(items: str, of: Any, /, **fields: Any) -> Any:
    return maps({}, ok=st.just(True), position=INTEGER, **{items: st.lists(of, max_size=4)}, **fields)


@dataclass(frozen=True)
class Kind:
    """What is read at once, by which call, and how an engine writes it; `rare` is read field by field."""

    call: calls.Call[Any]
    known: Any
    rare: Any = None


MORE = {"more": st.booleans()}
SNAPSHOT = replying("messages", MESSAGES, **MORE, snapshot_position=INTEGER, snapshot_seq=INTEGER)
OUTCOMES = (replying("outcomes", SETTLED), replying("outcomes", SETTLED | REFUSED))
KINDS = {
    "read": Kind(calls.read(1), replying("messages", MESSAGES, **MORE, seq=INTEGER, closed=st.booleans())),
    "snapshot": Kind(calls.snapshot(1, None, None), SNAPSHOT),
    "delta": Kind(calls.delta(1, None, None, None), SNAPSHOT),
    "log": Kind(calls.log(), replying("events", EVENTS, **MORE), replying("events", EVENTS | ELIDED, **MORE)),
    "lease": Kind(
        group_calls.lease("g", 4, 10),
        replying("leases", maps({}, **LEASE, event=EVENTS)),
        replying("leases", maps({}, **LEASE, event=EVENTS | ELIDED)),
    ),
    "ack": Kind(group_calls.ack("g", ["l"]), *OUTCOMES),
    "nack": Kind(group_calls.nack("g", ["l"]), *OUTCOMES),
    "extend": Kind(group_calls.extend("g", ["l"], 10), *OUTCOMES),
    # The call is only a name here: it has the two ways to read what is no reply.
    "event": Kind(calls.Call("", {}, replies.event, pages.event), EVENTS, EVENTS | ELIDED),
}


def outcome(read: Callable[[bytes], Any], packed: bytes) -> str:
    """What comes of it, in words that tell 1, 1.0 and True apart."""
    try:
        return repr(read(packed))
    except ArminError as error:
        return f"{type(error).__name__}: {error}"


def at_once(kind: str) -> Callable[[bytes], Any]:
    return replies.decode_event if kind == "event" else KINDS[kind].call.decode


def by_field(kind: str) -> Callable[[bytes], Any]:
    """What `at_once` comes to where `pages` can read nothing."""

    def read(packed: bytes) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "event", lambda _: None)
            call = calls.Call("", {}, KINDS[kind].call.parse)
            return replies.decode_event(packed) if kind == "event" else call.decode(packed)

    return read


def read_at_once(kind: str, packed: bytes) -> Any:
    page = KINDS[kind].call.page
    assert page is not None
    return page(packed)


# --- the same results -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_an_engine_sends_is_read_at_once_to_the_same_result(kind: str, data: st.DataObject) -> None:
    packed = msgpack.packb(data.draw(KINDS[kind].known))
    result = read_at_once(kind, packed)
    assert result is not None
    assert repr(result) == outcome(at_once(kind), packed) == outcome(by_field(kind), packed)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.rare is not None])
@given(data=st.data())
def test_an_elided_message_or_a_lost_lease_among_others_is_read_as_ever(
    kind: str, data: st.DataObject
) -> None:
    packed = msgpack.packb(data.draw(KINDS[kind].rare))
    assert outcome(at_once(kind), packed) == outcome(by_field(kind), packed)


MESSAGE = {"id": 9, "session_id": 2, "seq": 3, "role": "tool", "content": "c", "created_at": 5}
PAGE = {"ok": True, "position": 7, "more": False, "seq": 3, "closed": False}


def nested(depth: int) -> dict[str, Any]:
    return {} if depth == 1 else {"k": [nested(depth - 2)] if depth > 2 else None, "n": 1}


@pytest.mark.parametrize(
    "message",
    [
        {**MESSAGE, "content": "x" * (16 << 20)},
        {**MESSAGE, "content": "\0\u20ac\U0010ffff\ufffe"},
        {**MESSAGE, "meta": {}},
        {**MESSAGE, "meta": nested(15)},
        {**MESSAGE, "meta": {"": [None, True, 1, 1.0, -0.0, 5e-324, (1 << 64) - 1, -(1 << 63)]}},
    ],
    ids=["16 MiB", "Unicode", "empty meta", "deep meta", "scalars"],
)
def test_messages_at_the_limits_are_read_at_once_to_the_same_result(message: dict[str, Any]) -> None:
    packed = msgpack.packb({**PAGE, "messages": [message]})
    page = read_at_once("read", packed)
    [read] = page.messages
    assert {name: getattr(read, name) for name in message} == message
    assert repr(page) == outcome(by_field("read"), packed)


def test_nothing_that_an_engine_sends_now_needs_the_slow_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with armin.connect(engine.directory) as client:
        session = client.create_session("name", {"k": 1})
        client.append(session.id, "user", "in the snapshot", {"k": [1]})
        client.refresh_snapshot()
        client.append(session.id, "user", "after it")
        client.close_session(session.id)
        client.create_group("g")
        client.create_group("h")
        with monkeypatch.context() as patch:
            patch.setattr(replies, "each", None)  # of these every one would be called
            patch.setattr(replies, "event", None)
            assert len(client.read(session.id).messages) == 2
            assert len(client.snapshot(session.id).messages) == 1
            assert len(client.delta(session.id).messages) == 1
            assert len(client.log().events) == 4
            one, two, *_ = client.lease("g", max=4).leases
            assert client.extend("g", [one]).outcomes[0].until is not None
            assert client.ack("g", [one]).outcomes[0].ok
            assert client.ack("g", [one]).outcomes[0].duplicate
            assert client.nack("g", [two]).outcomes[0].ok


def test_a_class_that_cannot_be_given_to_an_instance_makes_reading_slow_not_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = msgpack.packb({**PAGE, "messages": [MESSAGE]})
    expected = outcome(at_once("read"), packed)
    monkeypatch.setattr(pages, "_UnfrozenMessage", type("Other", (), {}))
    assert read_at_once("read", packed) is None
    assert outcome(at_once("read"), packed) == expected


# --- the same refusals ----------------------------------------------------------------------------

ANYTHING = st.one_of(
    JSON,
    st.binary(max_size=3),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    st.builds(msgpack.Timestamp, st.integers(0, 1 << 40)),
    st.dictionaries(INTEGER | st.binary(max_size=2) | st.booleans(), JSON, min_size=1, max_size=2),
    st.integers(-9, 9).map(float),
)
NAMES = ["meta", "message", "elided", "content", "error", "created_at", "name", "until", "ok", "later"]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each map or array within, and each key of it."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def damaged(whole: Any, data: st.DataObject) -> Any:
    """With one value changed, taken away, or come in addition."""
    whole = copy.deepcopy(whole)
    where, key = data.draw(st.sampled_from(list(places(whole))))
    match data.draw(st.sampled_from(["change", "take away", "add"])):
        case "change":
            where[key] = data.draw(ANYTHING)
        case "take away":
            del where[key]
        case _ if isinstance(where, dict):
            where[data.draw(st.sampled_from(NAMES) | TEXT | st.binary(max_size=2))] = data.draw(ANYTHING)
        case _:
            where.append(data.draw(ANYTHING))
    return whole


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_is_damaged_comes_to_the_same_either_way(kind: str, data: st.DataObject) -> None:
    packed = msgpack.packb(damaged(data.draw(KINDS[kind].known), data))
    assert outcome(at_once(kind), packed) == outcome(by_field(kind), packed)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_bytes_that_are_damaged_come_to_the_same_either_way(kind: str, data: st.DataObject) -> None:
    packed = msgpack.packb(data.draw(KINDS[kind].known))
    at = data.draw(st.integers(0, len(packed)))
    gone = data.draw(st.integers(0, 3))
    packed = packed[:at] + data.draw(st.binary(max_size=3)) + packed[at + gone :]
    assert outcome(at_once(kind), packed) == outcome(by_field(kind), packed)


BAD = [
    b"\x91" * 100_000 + b"\xc0",  # deeper than either goes
    b"\x81\xa1k" * 100_000 + b"\xc0",
    b"\xdf\xff\xff\xff\xff",  # longer than it is
    b"\xc1",
    b"\xa1\xff",
    b"\x81\x01\x02",  # a key that is no string
    b"\x81\x91\x01\x02",
    b"\xd6\xff\x00\x00\x00\x01",  # a time
    b"\xc0",
    b"\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",  # 1.0
]


@pytest.mark.parametrize("bad", BAD, ids=[bad[:6].hex() for bad in BAD])
@pytest.mark.parametrize("name", ["meta", "content", "seq", "later"])
def test_a_field_that_is_wrong_in_its_bytes_comes_to_the_same_either_way(name: str, bad: bytes) -> None:
    given = msgpack.packb({**PAGE, "messages": [{**MESSAGE, name: "HERE"}]})
    packed = given.replace(msgpack.packb("HERE"), bad)
    assert packed != given
    assert outcome(at_once("read"), packed) == outcome(by_field("read"), packed)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"event"}))
def test_a_refusal_is_raised(kind: str) -> None:
    refusal = {"ok": False, "position": 7, "error": {"code": "conflict", "message": "m"}}
    with pytest.raises(armin.Conflict, match="m"):
        at_once(kind)(msgpack.packb(refusal))
