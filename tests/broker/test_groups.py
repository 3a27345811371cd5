"""Worker groups through a real daemon: every op, every limit, what is lost and what fails."""

from __future__ import annotations

from typing import Any

import pytest

from armin_broker import protocol
from harness import Engine, Peer, wait_until


def good(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["ok"] is True, reply
    return reply


def refused(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["ok"] is False, reply
    error: dict[str, Any] = reply["error"]
    return error


def fill(peer: Peer, count: int) -> int:
    """A session with messages; `count` + 1 facts."""
    session_id: int = good(peer.ask("create_session"))["session"]["id"]
    messages = [{"role": "user", "content": f"m{index}"} for index in range(count)]
    if messages:
        good(peer.ask("append_many", session_id=session_id, messages=messages))
    return session_id


def lease(peer: Peer, **fields: Any) -> list[dict[str, Any]]:
    leases: list[dict[str, Any]] = good(peer.ask("lease", group="g", **fields))["leases"]
    return leases


def names(leases: list[dict[str, Any]]) -> list[str]:
    return [each["lease"] for each in leases]


def positions(leases: list[dict[str, Any]]) -> list[int]:
    return [each["position"] for each in leases]


def group(peer: Peer, name: str = "g") -> dict[str, Any]:
    (described,) = good(peer.ask("groups", group=name))["groups"]
    assert isinstance(described, dict)
    return described


@pytest.fixture
def made(peer: Peer) -> Peer:
    """A peer of an engine that has the group g."""
    good(peer.ask("create_group", group="g", start="begin"))
    return peer


# --- creating, listing, dropping ---


def test_a_group_is_described_with_its_settings_and_its_state(peer: Peer) -> None:
    fill(peer, 1)
    fields = {
        "group": "é" * 64,
        "start": "now",
        "types": ["session_closed", "message_appended", "message_appended"],
        "ordered": True,
        "max_attempts": 1000,
        "backoff_ms": 86_400_000,
        "on_dead": "halt",
    }
    created = good(peer.ask("create_group", **fields))
    described = created["group"]
    assert "duplicate" not in created
    assert described == {
        **fields,
        "types": ["message_appended", "session_closed"],
        "created_at": described["created_at"],
        "cursor": 2,
        "behind": 0,
        "waiting": 0,
        "leased": 0,
        "dead": 0,
        "halted": False,
        "pollers": 0,
    }
    good(peer.ask("create_group", group="a", start="begin"))
    assert [each["group"] for each in good(peer.ask("groups"))["groups"]] == ["a", "é" * 64]
    assert group(peer, "a") == {
        **described,
        "group": "a",
        "start": "begin",
        "types": [protocol.SESSION_CREATED, protocol.MESSAGE_APPENDED, protocol.SESSION_CLOSED],
        **protocol.GROUP_DEFAULTS,
        "created_at": group(peer, "a")["created_at"],
        "cursor": 0,
        "behind": 2,
    }


def test_creating_a_group_again_wants_the_same_settings(peer: Peer) -> None:
    fields: dict[str, Any] = {"group": "g", "start": "begin", "types": ["session_created", "session_closed"]}
    first = good(peer.ask("create_group", **fields))
    again = good(peer.ask("create_group", **{**fields, "types": fields["types"][::-1]}, ordered=None))
    assert (again["duplicate"], again["group"]) == (True, first["group"])
    others = {
        "start": "now",
        "types": None,
        "ordered": True,
        "max_attempts": 6,
        "backoff_ms": 1,
        "on_dead": "halt",
    }
    for field, value in others.items():
        error = refused(peer.ask("create_group", **{**fields, field: value}))
        assert (error["code"], error["reason"], error["field"]) == ("conflict", "settings", field)


def test_now_lies_between_what_came_before_and_what_comes_after(peer: Peer) -> None:
    fill(peer, 0)
    peer.send("append", session_id=1, role="user", content="before")
    peer.send("create_group", group="g", start="now")
    peer.send("append", session_id=1, role="user", content="after")
    peer.send("lease", group="g", max=10)
    replies = [good(peer.receive()[1]) for _ in range(4)]
    assert [each["event"]["message"]["content"] for each in replies[3]["leases"]] == ["after"]


def test_a_dropped_group_is_gone_and_one_of_its_name_is_another(made: Peer) -> None:
    fill(made, 1)
    held = names(lease(made, max=2))
    assert good(made.ask("drop_group", group="g"))["dropped"] is True
    assert good(made.ask("drop_group", group="g"))["dropped"] is False
    for op in ("ack", "nack", "extend"):
        assert refused(made.ask(op, group="g", leases=held))["code"] == "group_not_found"
    for op in ("lease", "groups", "dead_letters", "requeue", "discard"):
        error = refused(made.ask(op, group="g"))
        assert (error["code"], error["field"], error["retry"]) == ("group_not_found", "group", False)
    good(made.ask("create_group", group="g", start="begin"))
    (outcome, _) = good(made.ask("ack", group="g", leases=held))["outcomes"]
    assert (outcome["ok"], outcome["error"]["code"]) == (False, "lease_lost")
    assert positions(lease(made, max=10)) == [1, 2]


def test_whoever_waits_for_a_group_hears_that_it_was_dropped(engine: Engine, made: Peer) -> None:
    with engine.peer() as worker:
        worker.send("lease", group="g", wait_ms=60_000)
        wait_until(lambda: group(made)["pollers"] == 1)
        good(made.ask("drop_group", group="g"))
        assert refused(worker.receive()[1])["code"] == "group_not_found"


# --- leasing ---


def test_a_lease_has_the_event_as_it_is_in_the_log(made: Peer) -> None:
    session_id = fill(made, 1)
    good(made.ask("close_session", session_id=session_id))
    before = good(made.ask("ping"))["position"]
    leases = lease(made, max=10, lease_ms=60_000)
    assert [each["event"] for each in leases] == good(made.ask("log"))["events"]
    assert positions(leases) == list(range(1, before + 1))
    assert {each["attempt"] for each in leases} == {1}
    assert len({each["until"] for each in leases}) == 1
    assert lease(made, max=10) == [], "all is leased"
    state = group(made)
    assert (state["leased"], state["cursor"], state["behind"]) == (3, 3, 0)


def test_a_group_of_some_types_gets_those_alone(peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin", types=["session_closed", "session_created"]))
    session_id = fill(peer, 5)
    good(peer.ask("close_session", session_id=session_id))
    assert [each["event"]["type"] for each in lease(peer, max=10)] == ["session_created", "session_closed"]
    assert group(peer)["behind"] == 0


def test_a_lease_waits_for_an_append_and_no_longer_than_asked(engine: Engine, made: Peer) -> None:
    assert lease(made, wait_ms=30) == []
    with engine.peer() as worker:
        worker.send("lease", group="g", wait_ms=60_000, max=5)
        wait_until(lambda: group(made)["pollers"] == 1)
        fill(made, 0)
        assert positions(good(worker.receive()[1])["leases"]) == [1]


def test_an_engine_sleeps_while_it_is_waited_for(engine: Engine, made: Peer) -> None:
    fill(made, 3)
    lease(made, max=2)
    (held, _) = lease(made, max=2)
    good(made.ask("nack", group="g", leases=[held["lease"]], delay_ms=60_000))
    good(made.ask("create_group", group="none", start="begin", types=["session_closed"]))
    with engine.peer() as worker:
        worker.send("lease", group="g", wait_ms=60_000)
        before = engine.cpu_seconds()
        assert good(made.ask("lease", group="none", wait_ms=1000))["leases"] == []
        assert engine.cpu_seconds() - before < 0.3


def test_polls_are_answered_first_come_first_served(engine: Engine, made: Peer) -> None:
    with engine.peer() as first, engine.peer() as second:
        for waiting, worker in enumerate((first, second)):
            worker.send("lease", group="g", wait_ms=60_000)
            wait_until(lambda waiting=waiting: group(made)["pollers"] == waiting + 1)
        fill(made, 1)
        assert positions(good(first.receive()[1])["leases"]) == [1]
        assert positions(good(second.receive()[1])["leases"]) == [2]


def test_the_same_request_gets_the_same_leases(made: Peer) -> None:
    fill(made, 3)
    first = lease(made, max=2, request="r")
    assert lease(made, max=2, request="r") == first
    good(made.ask("ack", group="g", leases=names(first)[:1]))
    assert lease(made, max=2, request="r") == first[1:]
    assert positions(lease(made, max=2, request="other")) == [3, 4]
    good(made.ask("ack", group="g", leases=names(first)[1:]))
    assert lease(made, max=2, request="r") == []


def test_a_request_that_waits_already_is_replaced_by_the_newer_one(engine: Engine, made: Peer) -> None:
    with engine.peer() as worker:
        older = worker.send("lease", group="g", wait_ms=60_000, request="r")
        newer = worker.send("lease", group="g", wait_ms=60_000, request="r")
        correlation, reply = worker.receive()
        assert (correlation, good(reply)["leases"]) == (older, [])
        fill(made, 0)
        correlation, reply = worker.receive()
        assert (correlation, positions(good(reply)["leases"])) == (newer, [1])


def test_an_expired_lease_goes_to_another_and_the_late_ack_is_lost(engine: Engine, made: Peer) -> None:
    fill(made, 0)
    (first,) = lease(made, lease_ms=10)
    with engine.peer() as other:
        (second,) = good(other.ask("lease", group="g", wait_ms=20_000))["leases"]
        assert (second["position"], second["attempt"]) == (1, 2)
        (late,) = good(made.ask("ack", group="g", leases=[first["lease"]]))["outcomes"]
        assert late["error"]["code"] == "lease_lost"
        assert late["error"]["retry"] is False
        assert good(other.ask("ack", group="g", leases=[second["lease"]]))["outcomes"][0]["ok"] is True
    assert made.ask("stats")["leases_expired"] == 1


def test_the_leases_of_a_poller_that_vanished_return_at_once(engine: Engine, made: Peer) -> None:
    gone = Peer(engine.endpoint("commands"))
    gone.send("lease", group="g", wait_ms=60_000, max=10)
    wait_until(lambda: group(made)["pollers"] == 1)
    with engine.peer() as worker:
        worker.send("lease", group="g", wait_ms=60_000, max=10)
        wait_until(lambda: group(made)["pollers"] == 2)
        wait_until(lambda: made.ask("stats")["connections_ipc"] == 3, what="all are counted")
        gone.close()
        wait_until(lambda: made.ask("stats")["connections_ipc"] == 2, what="the engine knows")
        fill(made, 0)
        (taken,) = good(worker.receive()[1])["leases"]
    assert (taken["position"], taken["attempt"]) == (1, 1), "nobody had it: that was no attempt"
    assert made.ask("stats")["leases_returned"] == 1


def test_leases_in_replies_that_a_vanished_peer_never_took_return(engine: Engine, made: Peer) -> None:
    session_id = fill(made, 0)
    for _ in range(40):
        good(made.ask("append", session_id=session_id, role="user", content="x" * (900 << 10)))
    good(made.ask("ack", group="g", leases=names(lease(made, max=41))))
    slow = Peer(engine.endpoint("commands"))
    slow.socket.rcvhwm = 1
    for _ in range(100):
        slow.send("read", session_id=session_id)
    slow.send("lease", group="g", wait_ms=60_000, max=10, lease_ms=86_400_000)
    wait_until(lambda: group(made)["pollers"] == 1)
    fill(made, 0)
    wait_until(lambda: group(made)["leased"] == 1)
    slow.close()
    wait_until(lambda: group(made)["leased"] == 0)
    assert [each["attempt"] for each in lease(made, max=10)] == [1]


# --- what becomes of a lease ---


def test_an_ack_is_known_when_it_is_sent_again(made: Peer) -> None:
    fill(made, 1)
    held = names(lease(made, max=2))
    assert good(made.ask("ack", group="g", leases=held))["outcomes"] == [
        {"lease": each, "ok": True} for each in held
    ]
    again = good(made.ask("ack", group="g", leases=[*held, "bogus"]))["outcomes"]
    assert [(each["ok"], each.get("duplicate", False)) for each in again] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    assert good(made.ask("ack", group="g", leases=[]))["outcomes"] == []


def test_a_nack_waits_for_its_delay_or_the_backoff(peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin", backoff_ms=40, max_attempts=9))
    fill(peer, 0)
    waits = []
    for fields in ({}, {}, {"delay_ms": 30}, {"delay_ms": 0}):
        (held,) = lease(peer, wait_ms=20_000)
        nacked = peer.ask("nack", group="g", leases=[held["lease"]], **fields)
        assert good(nacked)["outcomes"] == [{"lease": held["lease"], "ok": True}]
        (again,) = lease(peer, wait_ms=20_000)
        waits.append(again["until"] - held["until"])
        good(peer.ask("nack", group="g", leases=[again["lease"]], delay_ms=0))
    assert waits[0] >= 40
    assert waits[1] >= 160
    assert waits[2] >= 30


def test_extend_sets_a_new_end(made: Peer) -> None:
    fill(made, 0)
    (held,) = lease(made, lease_ms=86_400_000)
    (outcome,) = good(made.ask("extend", group="g", leases=[held["lease"]]))["outcomes"]
    assert outcome["ok"] is True
    assert held["until"] - outcome["until"] > 86_300_000
    good(made.ask("extend", group="g", leases=[held["lease"]], lease_ms=10))
    (again,) = lease(made, wait_ms=20_000)
    assert again["attempt"] == 2
    (lost,) = good(made.ask("extend", group="g", leases=[held["lease"]]))["outcomes"]
    assert lost["error"]["code"] == "lease_lost"


# --- dead letters ---


def test_an_effect_that_fails_too_often_is_a_dead_letter(peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin", max_attempts=2, backoff_ms=0))
    fill(peer, 1)
    for attempt in (1, 2):
        held = lease(peer, max=10)
        assert [each["attempt"] for each in held] == [attempt, attempt]
        outcomes = good(peer.ask("nack", group="g", leases=names(held), reason=f"no {attempt}"))["outcomes"]
        assert [each.get("dead", False) for each in outcomes] == [attempt == 2] * 2
    assert lease(peer, max=10) == []
    page = good(peer.ask("dead_letters", group="g", limit=1))
    (letter,) = page["dead_letters"]
    assert (letter["position"], letter["attempts"], letter["reason"], page["more"]) == (1, 2, "no 2", True)
    assert letter["event"] == good(peer.ask("log", limit=1))["events"][0]
    assert letter["died_at"] > 1_600_000_000_000
    rest = good(peer.ask("dead_letters", group="g", after=1))
    assert ([each["position"] for each in rest["dead_letters"]], rest["more"]) == ([2], False)
    assert (group(peer)["dead"], group(peer)["halted"]) == (2, False)
    assert good(peer.ask("requeue", group="g", positions=[2, 2, 9]))["requeued"] == 1
    (again,) = lease(peer)
    assert (again["position"], again["attempt"]) == (2, 1)
    assert good(peer.ask("discard", group="g"))["discarded"] == 1
    assert good(peer.ask("requeue", group="g"))["requeued"] == 0


def test_expiry_makes_dead_letters_too(peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin", max_attempts=1))
    fill(peer, 0)
    lease(peer, lease_ms=10)
    wait_until(lambda: group(peer)["dead"] == 1)
    (letter,) = good(peer.ask("dead_letters", group="g"))["dead_letters"]
    assert letter["reason"] == "the lease expired"


@pytest.mark.parametrize("op", ["requeue", "discard"])
def test_a_group_that_halts_stands_until_its_dead_letters_are_seen_to(peer: Peer, op: str) -> None:
    good(peer.ask("create_group", group="g", start="begin", max_attempts=1, on_dead="halt"))
    fill(peer, 3)
    first, second = lease(peer, max=2)
    good(peer.ask("nack", group="g", leases=[first["lease"]]))
    assert group(peer)["halted"] is True
    assert lease(peer) == []
    assert good(peer.ask("ack", group="g", leases=[second["lease"]]))["outcomes"][0]["ok"] is True
    peer.send("lease", group="g", max=10, wait_ms=60_000)
    peer.send(op, group="g")
    replies = [good(peer.receive()[1]) for _ in range(2)]
    (leases,) = [reply["leases"] for reply in replies if "leases" in reply]
    assert positions(leases) == ([1, 3, 4] if op == "requeue" else [3, 4])


# --- limits ---


def test_values_at_their_limits_are_taken(peer: Peer) -> None:
    fields = {"group": "x" * 128, "start": "begin", "max_attempts": 1, "backoff_ms": 0}
    good(peer.ask("create_group", **fields))
    name = {"group": "x" * 128}
    good(peer.ask("lease", **name, max=1 << 40, lease_ms=86_400_000, request="r" * 64))
    good(peer.ask("lease", **name, lease_ms=10, wait_ms=0))
    good(peer.ask("ack", **name, leases=["x" * 64] * 1000))
    good(peer.ask("nack", **name, leases=[], reason="r" * 1024, delay_ms=86_400_000))
    good(peer.ask("requeue", **name, positions=list(range(1, 1001))))
    good(peer.ask("dead_letters", **name, limit=1 << 40))


def test_a_lease_is_clamped_to_a_thousand_effects(made: Peer) -> None:
    fill(made, 1500)
    assert len(lease(made, max=5000)) == 1000


def test_a_page_of_leases_stays_within_its_bytes(made: Peer) -> None:
    session_id = fill(made, 0)
    messages = [{"role": "user", "content": "x" * 60_000}] * 40
    good(made.ask("append_many", session_id=session_id, messages=messages))
    made.send("lease", group="g", max=100)
    _, packed = made.socket.recv_multipart()
    assert 900_000 < len(packed) <= protocol.PAGE_BYTES_MAX


def test_a_position_beyond_the_log_is_refused(made: Peer) -> None:
    fill(made, 0)
    error = refused(made.ask("dead_letters", group="g", after=2))
    assert (error["code"], error["field"], error["limit"]) == ("cursor_invalid", "after", 1)


def test_hello_and_stats_speak_of_groups(made: Peer) -> None:
    assert "groups" in good(made.ask("hello"))["features"]
    fill(made, 9)
    held = names(lease(made, max=6))
    good(made.ask("ack", group="g", leases=held[:1]))
    good(made.ask("nack", group="g", leases=held[1:3]))
    stats = good(made.ask("stats"))
    assert {name: stats[name] for name in ("worker_groups", "leased", "waiting", "dead", "polls")} == {
        "worker_groups": 1,
        "leased": 3,
        "waiting": 2,
        "dead": 0,
        "polls": 0,
    }
    assert (stats["leases_granted"], stats["leases_acked"], stats["leases_nacked"]) == (6, 1, 2)
