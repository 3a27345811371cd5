"""Idempotency keys over the wire: resends are harmless, and pipelined writes keep their order."""

from __future__ import annotations

import pytest

from harness import Engine, Peer

MESSAGES = [{"role": "user", "content": "a"}, {"role": "tool", "content": "b", "meta": {"n": 1}}]


def session(peer: Peer) -> int:
    return int(peer.ask("create_session")["session"]["id"])


def without(reply: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in reply.items() if name not in names}


def test_every_keyed_write_answers_a_resend_as_the_first_time_across_a_kill(engine: Engine) -> None:
    with engine.peer() as peer:
        writes = [
            ("create_session", {"name": "n", "meta": {"a": 1}, "key": "k"}),
            ("append", {"session_id": 1, "role": "user", "content": "x", "key": "k"}),
            ("append_many", {"session_id": 1, "messages": MESSAGES, "key": "l", "after_key": "k"}),
        ]
        first = [peer.ask(op, **fields) for op, fields in writes]
        assert all(reply["ok"] and "duplicate" not in reply for reply in first)
        again = [peer.ask(op, **fields) for op, fields in writes]
    engine.kill()
    engine.start()
    with engine.peer() as peer:
        after = [peer.ask(op, **fields) for op, fields in writes]
    assert after == again
    assert all(reply["duplicate"] for reply in again)
    for one, two in list(zip(first, again, strict=True))[1:]:
        assert without(two, "duplicate", "position") == without(one, "position")
    assert again[0]["session"]["seq"] == 3


def test_a_conflict_names_its_field_and_reason(engine: Engine) -> None:
    with engine.peer() as peer:
        one = session(peer)
        append = {"session_id": one, "role": "user", "content": "x"}
        assert peer.ask("append", **append, key="k")["ok"]
        reused = peer.ask("append", **{**append, "content": "y"}, key="k")["error"]
        assert (reused["code"], reused["field"], reused["reason"]) == ("conflict", "key", "key_reused")
        assert not reused["retry"]
        late = peer.ask("append", **append, key="m", after_key="l")["error"]
        assert (late["code"], late["field"], late["reason"]) == ("conflict", "after_key", "out_of_order")
        assert late["retry"]


def test_a_chain_with_a_hole_stops_at_the_hole_and_goes_on_when_it_is_filled(engine: Engine) -> None:
    def command(number: int) -> dict[str, object]:
        fields = {"session_id": one, "role": "user", "content": str(number), "key": f"{number:04}"}
        return fields if number == 0 else {**fields, "after_key": f"{number - 1:04}"}

    with engine.peer() as peer:
        one = session(peer)
        for number in (n for n in range(100) if n != 40):
            peer.send("append", **command(number))
        replies = [peer.receive()[1] for _ in range(99)]
        assert [reply["ok"] for reply in replies] == [True] * 40 + [False] * 59
        assert {reply["error"]["reason"] for reply in replies[40:]} == {"out_of_order"}
        for number in range(40, 100):
            peer.send("append", **command(number))
        assert all(peer.receive()[1]["ok"] for _ in range(60))
        page = peer.ask("read", session_id=one)
        assert [message["content"] for message in page["messages"]] == [str(n) for n in range(100)]


@pytest.mark.parametrize("op", ["create_session", "append", "append_many"])
@pytest.mark.parametrize(
    ("key", "code"),
    [("", "bad_request"), (7, "bad_request"), (b"k", "bad_request"), ("k" * 257, "too_large")],
)
def test_a_key_of_the_wrong_shape_is_named(engine: Engine, op: str, key: object, code: str) -> None:
    fields = {
        "create_session": {},
        "append": {"session_id": 1, "role": "user", "content": "x"},
        "append_many": {"session_id": 1, "messages": MESSAGES},
    }[op]
    with engine.peer() as peer:
        error = peer.ask(op, **fields, key=key)["error"]
        assert (error["code"], error["field"]) == (code, "key")
