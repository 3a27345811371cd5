"""Every op of `armin/1` through the real sockets of a real daemon."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import zmq

from armin_broker import protocol
from harness import Engine, Peer, failing_writes, wait_until


def code(reply: dict[str, Any]) -> str:
    assert reply["ok"] is False, reply
    assert isinstance(reply["position"], int)
    assert isinstance(reply["error"]["message"], str)
    assert isinstance(reply["error"]["retry"], bool)
    return str(reply["error"]["code"])


def good(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["ok"] is True, reply
    assert isinstance(reply["position"], int)
    return reply


def fill(peer: Peer, count: int, **fields: Any) -> int:
    session_id: int = good(peer.ask("create_session", **fields))["session"]["id"]
    messages = [{"role": "user", "content": f"m{index}"} for index in range(1, count + 1)]
    if messages:
        good(peer.ask("append_many", session_id=session_id, messages=messages))
    return session_id


def seqs(reply: dict[str, Any]) -> list[int]:
    return [message["seq"] for message in good(reply)["messages"]]


def test_hello_says_who_the_engine_is_and_what_it_takes(engine: Engine, peer: Peer) -> None:
    hello = good(peer.ask("hello"))
    assert hello["protocol"] == "armin/1"
    assert hello["limits"] == protocol.LIMITS
    assert hello["durability"] == {"journal_mode": "wal", "synchronous": "full", "fullfsync": True}
    assert hello["endpoints"]["ipc"]["commands"] == str(engine.directory / "commands.sock")
    assert len(hello["database"]) == len(hello["epoch"]) == len(hello["engine"]) == 32


def test_create_append_read_close(peer: Peer) -> None:
    created = good(peer.ask("create_session", name="chat", meta={"owner": "ada", "n": [1, 2.5, None, True]}))
    session = created["session"]
    assert "duplicate" not in created
    assert session == {
        "id": 1,
        "name": "chat",
        "closed": False,
        "created_at": session["created_at"],
        "seq": 0,
        "meta": {"owner": "ada", "n": [1, 2.5, None, True]},
    }
    appended = good(peer.ask("append", session_id=1, role="assistant", content="hi", meta={"model": "m"}))
    assert (appended["id"], appended["seq"], appended["at"], appended["position"]) == (1, 1, 2, 2)
    many = good(
        peer.ask("append_many", session_id=1, messages=[{"role": r, "content": ""} for r in protocol.ROLES])
    )
    assert (many["first_id"], many["first_seq"], many["first_at"], many["count"]) == (2, 2, 3, 4)
    page = good(peer.ask("read", session_id=1))
    assert page["messages"][0] == {
        "id": 1,
        "session_id": 1,
        "seq": 1,
        "role": "assistant",
        "content": "hi",
        "created_at": appended["created_at"],
        "meta": {"model": "m"},
    }
    assert [message["role"] for message in page["messages"][1:]] == list(protocol.ROLES)
    assert (page["more"], page["seq"], page["closed"]) == (False, 5, False)
    closed = good(peer.ask("close_session", session_id=1))
    assert closed["at"] == closed["position"] == 7
    again = good(peer.ask("close_session", session_id=1))
    assert (again["at"], again["duplicate"], again["position"]) == (7, True, 7)
    assert code(peer.ask("append", session_id=1, role="user", content="late")) == "session_closed"
    assert good(peer.ask("session", name="chat"))["session"]["closed"] is True


def test_a_name_names_one_session_for_ever(peer: Peer) -> None:
    first = good(peer.ask("create_session", name="n", meta={"v": 1}))
    second = good(peer.ask("create_session", name="n", meta={"v": 2}))
    assert second["duplicate"] is True
    assert second["session"] == first["session"]
    assert second["position"] == first["position"]
    assert good(peer.ask("session", name="n"))["session"]["id"] == first["session"]["id"]
    assert code(peer.ask("session", name="other")) == "session_not_found"


def test_checks_come_in_the_documented_order(peer: Peer) -> None:
    closed = fill(peer, 1)
    good(peer.ask("close_session", session_id=closed))
    nowhere: dict[str, Any] = {"session_id": 999, "expect_seq": 9}
    assert code(peer.ask("append", role="robot", content="", **nowhere)) == "bad_request"
    assert code(peer.ask("append", role="user", content="", **nowhere)) == "session_not_found"
    assert (
        code(peer.ask("append", session_id=closed, role="user", content="", expect_seq=9)) == "session_closed"
    )
    opened = fill(peer, 1)
    conflict = peer.ask("append", session_id=opened, role="user", content="", expect_seq=9)
    assert code(conflict) == "conflict"
    assert conflict["error"]["reason"] == "expect_seq"
    assert good(peer.ask("append", session_id=opened, role="user", content="", expect_seq=2))["seq"] == 2


def test_a_batch_is_all_or_nothing(peer: Peer) -> None:
    session_id = fill(peer, 0)
    before = good(peer.ask("ping"))["position"]
    bad = [{"role": "user", "content": "ok"}, {"role": "user", "content": None}]
    assert code(peer.ask("append_many", session_id=session_id, messages=bad)) == "bad_request"
    assert good(peer.ask("ping"))["position"] == before
    assert seqs(peer.ask("read", session_id=session_id)) == []


def test_read_pages_both_ways(peer: Peer) -> None:
    session_id = fill(peer, 10)
    ask = {"session_id": session_id, "limit": 4}
    first = peer.ask("read", **ask)
    assert (seqs(first), first["more"]) == ([1, 2, 3, 4], True)
    last = peer.ask("read", **ask, after=6)
    assert (seqs(last), last["more"]) == ([7, 8, 9, 10], False)
    newest = peer.ask("read", **ask, before=protocol.ID_MAX)
    assert (seqs(newest), newest["more"]) == ([7, 8, 9, 10], True)
    oldest = peer.ask("read", **ask, before=3)
    assert (seqs(oldest), oldest["more"]) == ([1, 2], False)
    assert seqs(peer.ask("read", **ask, before=1)) == []
    assert seqs(peer.ask("read", **ask, after=10)) == []
    assert code(peer.ask("read", **ask, after=11)) == "cursor_invalid"
    assert code(peer.ask("read", session_id=999)) == "session_not_found"


def test_sessions_page_both_ways_and_by_state(peer: Peer) -> None:
    ids = [fill(peer, 0) for _ in range(7)]
    for session_id in ids[::2]:
        good(peer.ask("close_session", session_id=session_id))

    def listed(**fields: Any) -> tuple[list[int], bool]:
        reply = good(peer.ask("sessions", **fields))
        return [session["id"] for session in reply["sessions"]], reply["more"]

    assert listed() == (ids, False)
    assert listed(limit=3) == (ids[:3], True)
    assert listed(after=ids[3], limit=3) == (ids[4:], False)
    assert listed(before=protocol.ID_MAX, limit=2) == (ids[-2:], True)
    assert listed(before=ids[2], limit=5) == (ids[:2], False)
    assert listed(closed=True) == (ids[::2], False)
    assert listed(closed=False, limit=2) == (ids[1:5:2], True)
    assert listed(closed=True, before=ids[-1], limit=2) == (ids[2:5:2], True)


def test_tails_answer_for_many_sessions(peer: Peer) -> None:
    one, two = fill(peer, 3), fill(peer, 0)
    good(peer.ask("close_session", session_id=two))
    assert good(peer.ask("tails", session_ids=[two, one]))["tails"] == [[two, 0, True], [one, 3, False]]
    assert good(peer.ask("tails", session_ids=[]))["tails"] == []
    assert code(peer.ask("tails", session_ids=[one, 99])) == "session_not_found"


def test_snapshot_and_delta_make_up_the_session(peer: Peer) -> None:
    session_id = fill(peer, 3)
    snapshot = good(peer.ask("snapshot", session_id=session_id))
    assert (seqs(snapshot), snapshot["snapshot_seq"], snapshot["more"]) == ([], 0, False)
    moved = good(peer.ask("refresh_snapshot"))["snapshot_position"]
    assert moved == 4
    good(peer.ask("append", session_id=session_id, role="user", content="new"))
    snapshot = good(peer.ask("snapshot", session_id=session_id, limit=2))
    assert (seqs(snapshot), snapshot["more"]) == ([1, 2], True)
    assert (snapshot["snapshot_position"], snapshot["snapshot_seq"]) == (4, 3)
    assert seqs(peer.ask("snapshot", session_id=session_id, after=2)) == [3]
    delta = good(peer.ask("delta", session_id=session_id, snapshot_position=4))
    assert (seqs(delta), delta["snapshot_position"], delta["snapshot_seq"]) == ([4], 4, 3)
    good(peer.ask("refresh_snapshot"))
    conflict = peer.ask("delta", session_id=session_id, snapshot_position=4)
    assert code(conflict) == "conflict"
    assert conflict["error"]["reason"] == "snapshot_moved"


def test_the_log_gives_every_fact_in_order(peer: Peer) -> None:
    session_id = fill(peer, 2, name="n", meta={"a": 1})
    good(peer.ask("close_session", session_id=session_id))
    events = good(peer.ask("log"))["events"]
    assert [event["position"] for event in events] == [1, 2, 3, 4]
    assert [event["type"] for event in events] == [
        "session_created",
        "message_appended",
        "message_appended",
        "session_closed",
    ]
    assert (events[0]["name"], events[0]["meta"]) == ("n", {"a": 1})
    assert events[1]["message"] == good(peer.ask("read", session_id=session_id))["messages"][0]
    page = good(peer.ask("log", after=1, limit=2))
    assert ([event["position"] for event in page["events"]], page["more"]) == ([2, 3], True)
    assert good(peer.ask("log", after=4))["events"] == []
    assert code(peer.ask("log", after=5)) == "cursor_invalid"


def test_verify_is_a_job_that_is_polled(peer: Peer) -> None:
    fill(peer, 5)
    job = good(peer.ask("verify"))["job"]
    result: dict[str, Any] = {}

    def done() -> bool:
        result.update(good(peer.ask("verify", job=job)))
        return bool(result["done"])

    wait_until(done)
    assert (result["equal"], result["checked"], result["differences"]) == (True, 6, [])
    assert code(peer.ask("verify", job=job + 1)) == "bad_request"


def test_stats_count_what_was_done(peer: Peer) -> None:
    fill(peer, 3)
    peer.ask("read", session_id=1, reason="heal")
    peer.ask("nonsense")
    stats = good(peer.ask("stats"))
    assert (stats["sessions"], stats["messages"], stats["facts"]) == (1, 3, 4)
    assert (stats["heals"], stats["errors"], stats["replies_lost"]) == (1, 1, 0)
    assert stats["effects_backlog"] == 4


def test_the_snapshot_is_refreshed_on_its_own_as_the_delta_grows(peer: Peer) -> None:
    session_id = fill(peer, 10_000)
    stats = good(peer.ask("stats"))
    assert stats["refreshes"] == 1
    assert (stats["delta_messages"], stats["snapshot_position"]) == (0, stats["position"])
    assert good(peer.ask("snapshot", session_id=session_id, limit=1))["snapshot_seq"] == 10_000


# --- envelopes ------------------------------------------------------------------------------------


def test_a_plain_req_gets_its_reply(engine: Engine) -> None:
    with Peer(engine.endpoint("commands"), zmq.REQ) as peer:
        for _ in range(3):
            peer.socket.send(msgpack.packb({"op": "ping"}))
            assert good(msgpack.unpackb(peer.socket.recv()))["position"] == 0


def test_frames_before_the_command_come_back_unchanged(peer: Peer) -> None:
    ping = msgpack.packb({"op": "ping"})
    for envelope in ([], [b""], [b"id"], [b"a", b"", b"c", b"\x00" * 256]):
        *returned, reply = peer.raw([*envelope, ping])
        assert returned == envelope
        good(msgpack.unpackb(reply))


@pytest.mark.parametrize(
    ("envelope", "returned"),
    [
        ([b"1", b"2", b"3", b"4", b"5"], [b"1", b"2", b"3", b"4"]),
        ([b"", b"x" * 257, b"3"], [b""]),
        ([b"f"] * 5000, [b"f"] * 4),
    ],
)
def test_an_envelope_over_its_limits_gets_an_error_behind_what_fits(
    peer: Peer, envelope: list[bytes], returned: list[bytes]
) -> None:
    *frames, reply = peer.raw([*envelope, msgpack.packb({"op": "ping"})])
    assert frames == returned
    decoded = msgpack.unpackb(reply)
    assert code(decoded) == "bad_request"
    assert decoded["error"]["field"] == "envelope"


# --- what one peer sees -----------------------------------------------------------------------------


def test_a_pipelining_client_reads_its_own_writes_and_replies_keep_their_order(peer: Peer) -> None:
    session_id = fill(peer, 0)
    sent: list[tuple[bytes, int]] = []
    for number in range(1, 3001):
        sent.append((peer.send("append", session_id=session_id, role="user", content=f"m{number}"), number))
        if number % 7 == 0:
            sent.append((peer.send("read", session_id=session_id, after=number - 1, limit=1), -number))
    for correlation, number in sent:
        answered, reply = peer.receive()
        assert answered == correlation
        if number > 0:
            assert good(reply)["seq"] == number
        else:
            assert [message["content"] for message in good(reply)["messages"]] == [f"m{-number}"]


def test_a_bad_command_in_a_group_fails_alone(peer: Peer) -> None:
    session_id = fill(peer, 0)
    for number in range(300):
        role = "robot" if number % 3 == 0 else "user"
        peer.send("append", session_id=999 if number % 3 == 1 else session_id, role=role, content="")
    codes = [reply["ok"] or reply["error"]["code"] for _, reply in (peer.receive() for _ in range(300))]
    assert codes == ["bad_request", "session_not_found", True] * 100
    assert good(peer.ask("session", session_id=session_id))["session"]["seq"] == 100


def test_a_barrier_answers_for_what_came_before_it(peer: Peer) -> None:
    session_id = fill(peer, 0)
    for _ in range(50):
        peer.send("append", session_id=session_id, role="user", content="x")
        peer.send("refresh_snapshot")
        peer.send("snapshot", session_id=session_id, limit=1)
    replies = [peer.receive()[1] for _ in range(150)]
    assert [reply["snapshot_position"] for reply in replies[1::3]] == list(range(2, 52))
    assert [reply["snapshot_seq"] for reply in replies[2::3]] == sorted(
        reply["snapshot_seq"] for reply in replies[2::3]
    )


def test_messages_of_16_mib_go_in_and_come_out(peer: Peer) -> None:
    session_id = fill(peer, 1)
    content = "é" * (protocol.CONTENT_BYTES_MAX // 2)
    assert good(peer.ask("append", session_id=session_id, role="user", content=content))["seq"] == 2
    good(peer.ask("append", session_id=session_id, role="user", content="after"))
    page = good(peer.ask("read", session_id=session_id, after=1))
    assert [len(message["content"]) for message in page["messages"]] == [len(content)]
    assert page["more"] is True
    too_large = peer.ask("append", session_id=session_id, role="user", content=content + "x")
    assert code(too_large) == "too_large"
    assert (too_large["error"]["field"], too_large["error"]["limit"]) == (
        "content",
        protocol.CONTENT_BYTES_MAX,
    )
    events = good(peer.ask("log", after=1))["events"]
    assert "content" not in events[1]["message"]
    assert events[1]["message"]["elided"] is True
    assert events[2]["message"]["content"] == "after"


def test_contents_and_metas_come_back_as_they_went_in(peer: Peer) -> None:
    contents = ["", "\0", "\x1b[31m\r\n\t\x7f\u2028", "日本語 עברית ไทย 🧑‍👩‍👧‍👦", "é" * 50_000, "\U0010ffff"]
    meta = {"z": 1, "a": [-(1 << 63), (1 << 63) - 1, 1.0, -0.5, "\0", {}, []], "": {"k": None, "t": True}}
    session_id = fill(peer, 0)
    for content in contents:
        good(peer.ask("append", session_id=session_id, role="tool", content=content, meta=meta))
    messages = good(peer.ask("read", session_id=session_id))["messages"]
    assert [message["content"] for message in messages] == contents
    assert repr(messages[0]["meta"]) == repr(meta)


# --- pipelines --------------------------------------------------------------------------------------


def append(session_id: int, content: str = "x", **fields: Any) -> dict[str, Any]:
    return {"op": "append", "session_id": session_id, "role": "user", "content": content, **fields}


def counted(peer: Peer, *names: str) -> list[int]:
    stats = good(peer.ask("stats"))
    return [stats[name] for name in names]


def test_a_pipeline_of_as_many_commands_as_may_be_is_one_commit(peer: Peer) -> None:
    session_id = fill(peer, 0)
    names = ("commands", "groups", "commits", "facts", "errors")
    before = counted(peer, *names)
    count = protocol.PIPELINE_COMMANDS_MAX
    commands = [append(session_id, f"m{number}") for number in range(1, count + 1)]
    reply = good(peer.ask("pipeline", commands=commands))
    assert [each["seq"] for each in reply["replies"]] == list(range(1, count + 1))
    assert [each["at"] for each in reply["replies"]] == list(range(2, count + 2))
    grown = [after - value for after, value in zip(counted(peer, *names), before, strict=True)]
    assert grown == [2, 2, 1, count, 0], "the first `stats` is a command and a group, too"
    page = good(peer.ask("read", session_id=session_id, limit=count))
    assert [message["content"] for message in page["messages"]] == [each["content"] for each in commands]
    assert [event["position"] for event in good(peer.ask("log", limit=2000))["events"]] == list(
        range(1, count + 2)
    )


def test_a_pipeline_of_one_command_too_many_is_refused_as_a_whole(peer: Peer) -> None:
    session_id = fill(peer, 0)
    reply = peer.ask("pipeline", commands=[append(session_id)] * (protocol.PIPELINE_COMMANDS_MAX + 1))
    assert code(reply) == "too_large"
    assert (reply["error"]["field"], reply["error"]["limit"]) == ("commands", protocol.PIPELINE_COMMANDS_MAX)
    assert good(peer.ask("session", session_id=session_id))["session"]["seq"] == 0


def test_a_pipeline_is_one_command_and_each_of_its_errors_is_one(peer: Peer) -> None:
    session_id = fill(peer, 0)
    commands, errors = counted(peer, "commands", "errors")
    bad = [append(session_id, role="robot"), append(99), {"op": "ping"}, {}]
    assert [
        each["ok"] for each in good(peer.ask("pipeline", commands=[append(session_id), *bad]))["replies"]
    ] == [
        True,
        *[False] * 4,
    ]
    assert code(peer.ask("pipeline", commands=[])) == "bad_request"
    assert code(peer.ask("pipeline", commands=[None] * protocol.PIPELINE_COMMANDS_MAX)) == "bad_request"
    assert counted(peer, "commands", "errors") == [commands + 4, errors + 6]


def test_pipelines_of_many_peers_are_answered_each_in_its_order(engine: Engine, peer: Peer) -> None:
    peers = [engine.peer() for _ in range(4)]
    ids = [fill(peer, 0) for _ in peers]
    with peers[0] as a, peers[1] as b, peers[2] as c, peers[3] as d:
        everyone = list(zip((a, b, c, d), ids, strict=True))
        for turn in range(50):
            for each, session_id in everyone:
                each.send("pipeline", commands=[append(session_id, f"{turn}.{n}") for n in range(20)])
        for turn in range(50):
            for each, _ in everyone:
                correlation, reply = each.receive()
                assert correlation == b"%d" % (turn + 1)
                seqs_ = [part["seq"] for part in good(reply)["replies"]]
                assert seqs_ == list(range(20 * turn + 1, 20 * turn + 21))
    for session_id in ids:
        contents = [
            m["content"] for m in good(peer.ask("read", session_id=session_id, limit=1000))["messages"]
        ]
        assert contents == [f"{turn}.{n}" for turn in range(50) for n in range(20)]


def test_a_failed_commit_fails_each_write_of_a_pipeline_and_nothing_else_in_it(
    engine: Engine, peer: Peer
) -> None:
    session_id = fill(peer, 0)
    good(peer.ask(**append(session_id, "before", key="a")))
    before = [peer.ask("log"), peer.ask("sessions")]
    commands = [
        append(session_id, "before", key="a"),
        append(session_id, "lost" * 500, key="b", after_key="a"),
        append(session_id, role="robot"),
        {"op": "append_many", "session_id": session_id, "messages": [{"role": "user", "content": "lost"}]},
        {"op": "create_session"},
        {"op": "ping"},
        append(99),
        {"op": "close_session", "session_id": session_id},
    ]
    with failing_writes(engine):
        replies = good(peer.ask("pipeline", commands=commands))["replies"]
    codes = [reply.get("duplicate") or code(reply) for reply in replies]
    assert codes == [
        *(True, "storage_failed", "bad_request", "storage_failed"),
        *("bad_request", "bad_request", "session_not_found", "storage_failed"),
    ]
    assert [peer.ask("log"), peer.ask("sessions")] == before
    again = good(peer.ask("pipeline", commands=commands))["replies"]
    assert [reply["ok"] for reply in again] == [True, True, False, True, False, False, False, True]
    assert (again[1]["seq"], again[3]["first_seq"], again[7]["at"]) == (2, 3, again[7]["position"])


def test_pipelines_nested_without_end_are_refused_and_the_engine_serves_on(
    engine: Engine, peer: Peer
) -> None:
    inner = msgpack.packb(append(fill(peer, 0)))
    opening = b"\x82\xa2op\xa8pipeline\xa8commands\x91"
    for depth in (2, 500, 1000, 100_000):
        reply = msgpack.unpackb(peer.raw([opening * depth + inner])[-1])
        (refused,) = reply.get("replies", [reply])
        assert code(refused) == "bad_request"
    assert good(peer.ask("ping"))["position"] == 1
    assert "Traceback" not in engine.errors()
