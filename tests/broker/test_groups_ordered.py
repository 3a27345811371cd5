"""Ordered groups through a real daemon: one effect of a session at a time, in order."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from harness import Engine, Peer


def good(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["ok"] is True, reply
    return reply


def make(peer: Peer, **fields: Any) -> None:
    """The ordered group g, and two sessions: positions 1, 3, 5 are of the first, 2, 4, 6 of the second."""
    good(peer.ask("create_group", group="g", start="begin", ordered=True, **fields))
    for _ in range(2):
        good(peer.ask("create_session"))
    for number in range(4):
        good(peer.ask("append", session_id=number % 2 + 1, role="user", content="x"))


def lease(peer: Peer, count: int = 10, **fields: Any) -> dict[int, str]:
    """Leases by position."""
    reply = good(peer.ask("lease", group="g", max=count, **fields))
    return {each["position"]: each["lease"] for each in reply["leases"]}


def test_one_lease_has_one_effect_of_each_session(peer: Peer) -> None:
    make(peer)
    held = lease(peer)
    assert list(held) == [1, 2]
    assert lease(peer) == {}
    (described,) = good(peer.ask("groups"))["groups"]
    assert (described["leased"], described["waiting"], described["cursor"]) == (2, 4, 6)
    good(peer.ask("ack", group="g", leases=[held[2]]))
    assert list(lease(peer)) == [4]


def test_a_nack_holds_its_session_alone(peer: Peer) -> None:
    make(peer)
    held = lease(peer)
    good(peer.ask("nack", group="g", leases=[held[1]], delay_ms=86_400_000))
    good(peer.ask("ack", group="g", leases=[held[2]]))
    following = lease(peer)
    assert list(following) == [4]
    good(peer.ask("nack", group="g", leases=[following[4]], delay_ms=200))
    waited = lease(peer, wait_ms=50_000)
    assert list(waited) == [4], "not 6, though that waited too"


def test_a_dead_letter_is_passed_and_a_requeued_one_goes_first(peer: Peer) -> None:
    make(peer, max_attempts=1)
    held = lease(peer)
    good(peer.ask("nack", group="g", leases=[held[1]]))
    third = lease(peer)
    assert list(third) == [3]
    good(peer.ask("requeue", group="g"))
    assert lease(peer) == {}, "one of its session is leased"
    good(peer.ask("ack", group="g", leases=[third[3]]))
    assert list(lease(peer)) == [1], "before 5"


def test_workers_side_by_side_never_overlap_or_pass_within_a_session(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin", ordered=True, backoff_ms=0, max_attempts=1000))
    for _ in range(5):
        good(peer.ask("create_session"))
    for number in range(200):
        peer.send("append", session_id=number % 5 + 1, role="user", content="x")
    for _ in range(200):
        good(peer.receive()[1])
    handled: dict[int, list[int]] = defaultdict(list)
    busy: set[int] = set()
    with engine.peer() as one, engine.peer() as two:
        held: dict[Peer, list[dict[str, Any]]] = {one: [], two: []}
        for turn in range(1000):
            worker = (one, two)[turn % 2]
            for number, each in enumerate(held[worker]):
                session_id = each["event"]["session_id"]
                busy.remove(session_id)
                if (turn + number) % 7 == 0:
                    worker.ask("nack", group="g", leases=[each["lease"]])
                else:
                    worker.ask("ack", group="g", leases=[each["lease"]])
                    handled[session_id].append(each["position"])
            held[worker] = good(worker.ask("lease", group="g", max=2))["leases"]
            for each in held[worker]:
                assert each["event"]["session_id"] not in busy, "two at a time"
                busy.add(each["event"]["session_id"])
            if sum(map(len, handled.values())) == 205:
                break
    assert sum(map(len, handled.values())) == 205
    for positions in handled.values():
        assert positions == sorted(positions)
        assert len(positions) == 41
