"""Worker groups across kills, restarts, failing storage and a clean end."""

from __future__ import annotations

import sqlite3
from typing import Any

from armin_broker.daemon import EXIT_CODES
from armin_engine import CorruptDatabase
from harness import Engine, Peer, failing_writes, wait_until


def good(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["ok"] is True, reply
    return reply


def append(peer: Peer, session_id: int, count: int) -> None:
    messages = [{"role": "user", "content": "x"}] * count
    good(peer.ask("append_many", session_id=session_id, messages=messages))


def lease(peer: Peer, **fields: Any) -> list[dict[str, Any]]:
    leases: list[dict[str, Any]] = good(peer.ask("lease", group="g", **fields))["leases"]
    return leases


def positions(leases: list[dict[str, Any]]) -> list[int]:
    return [each["position"] for each in leases]


def state(peer: Peer) -> Any:
    letters = good(peer.ask("dead_letters", group="g"))["dead_letters"]
    return good(peer.ask("groups"))["groups"], letters


def test_everything_survives_a_kill(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin", max_attempts=2, ordered=True))
    good(peer.ask("create_group", group="other", start="now", types=["session_closed"]))
    for _ in range(4):
        good(peer.ask("create_session"))
    append(peer, 1, 3)
    held = lease(peer, max=4, request="r", lease_ms=600_000)
    assert positions(held) == [1, 2, 3, 4]
    dying, acked, delayed = held[1]["lease"], held[2]["lease"], held[3]["lease"]
    good(peer.ask("nack", group="g", leases=[dying], delay_ms=0))
    again = lease(peer, request="s")
    assert (positions(again), again[0]["attempt"]) == ([2], 2)
    good(peer.ask("nack", group="g", leases=[again[0]["lease"]], reason="no"))
    good(peer.ask("ack", group="g", leases=[acked]))
    good(peer.ask("nack", group="g", leases=[delayed], delay_ms=80_000_000))
    good(peer.ask("create_group", group="gone", start="begin"))
    good(peer.ask("drop_group", group="gone"))
    assert lease(peer, max=10) == [], "session 1 is leased, so what follows in it is held"
    before = state(peer)
    engine.kill()
    engine.start()
    with engine.peer() as second:
        assert state(second) == before
        assert lease(second, max=4, request="r") == [held[0]], "the same until, too"
        (late,) = good(second.ask("ack", group="g", leases=[acked]))["outcomes"]
        assert late["error"]["code"] == "lease_lost"
        good(second.ask("ack", group="g", leases=[held[0]["lease"]]))
        (following,) = lease(second, max=10)
        assert following["position"] == 5
        engine.kill()
    engine.start()
    with engine.peer() as second:
        good(second.ask("ack", group="g", leases=[following["lease"]]))
        (last,) = lease(second, max=10)
        assert last["position"] == 6
        good(second.ask("requeue", group="g"))
        (requeued,) = lease(second, max=10)
        assert (requeued["position"], requeued["attempt"]) == (2, 1)
        (outcome,) = good(second.ask("ack", group="g", leases=[again[0]["lease"]]))["outcomes"]
        assert outcome["ok"] is False, "a lease of an earlier delivery"


def test_a_lease_that_ended_while_the_engine_was_down_expires_at_the_start(
    engine: Engine, peer: Peer
) -> None:
    good(peer.ask("create_group", group="g", start="begin", max_attempts=1))
    good(peer.ask("create_session"))
    (held,) = lease(peer, lease_ms=300)
    engine.kill()
    engine.start()
    with engine.peer() as second:
        wait_until(lambda: state(second)[0][0]["dead"] == 1)
        ((letter,),) = state(second)[1:]
        assert letter["position"] == held["position"]
        assert letter["died_at"] >= held["until"]


def test_group_ids_do_not_come_again(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_session"))
    good(peer.ask("create_group", group="g", start="begin"))
    (first,) = lease(peer)
    good(peer.ask("drop_group", group="g"))
    engine.stop()
    engine.start()
    with engine.peer() as second:
        good(second.ask("create_group", group="g", start="begin"))
        (another,) = lease(second)
        assert another["lease"] != first["lease"]


def test_a_commit_that_fails_changes_no_group(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin"))
    good(peer.ask("create_session"))
    append(peer, 1, 5)
    held = [each["lease"] for each in lease(peer, max=2, lease_ms=600_000)]
    before = state(peer)
    with failing_writes(engine):
        for _ in range(40):
            peer.send("append", session_id=1, role="user", content="lost" * 1000)
            peer.send("ack", group="g", leases=held)
            peer.send("nack", group="g", leases=held)
            peer.send("lease", group="g", max=3)
        for _ in range(160):
            _, reply = peer.receive()
            assert reply["ok"] is False, reply
            assert reply["error"]["code"] == "storage_failed", reply
            assert reply["error"]["retry"] is True
        for op in ("create_group", "drop_group"):
            fields = {"start": "now"} if op == "create_group" else {}
            reply = peer.ask(op, group="g" if op == "drop_group" else "h", **fields)
            assert reply["error"]["code"] == "storage_failed"
        assert state(peer) == before
        peer.send("lease", group="g", max=3, wait_ms=60_000, request="parked")
        assert peer.receive()[1]["error"]["code"] == "storage_failed"
        (lost,) = good(peer.ask("ack", group="g", leases=["1.1.9"]))["outcomes"]
        assert lost["ok"] is False, "what writes nothing does not fail"
    assert state(peer) == before
    assert [each["ok"] for each in good(peer.ask("ack", group="g", leases=held))["outcomes"]] == [True] * 2
    assert positions(lease(peer, max=10)) == [3, 4, 5, 6]
    engine.kill()
    engine.start()
    with engine.peer() as second:
        (described,) = state(second)[0]
        assert (described["leased"], described["cursor"]) == (4, 6)


def test_an_expiry_that_cannot_be_written_is_written_later(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin"))
    good(peer.ask("create_session"))
    with engine.peer() as worker:
        (held,) = lease(peer, lease_ms=3000)  # by when writes fail
        with failing_writes(engine):
            failed: list[int] = []
            wait_until(lambda: failed.append(peer.ask("stats")["commits_failed"]) or failed[-1] > 0)
            assert failed[-1] < 5, "it is not tried without a pause"
            assert state(peer)[0][0]["leased"] == 1
            worker.send("lease", group="g", wait_ms=60_000)
        (again,) = good(worker.receive()[1])["leases"]
        assert (again["position"], again["attempt"]) == (held["position"], 2)


def test_whoever_waits_at_the_end_is_told(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin"))
    peer.send("lease", group="g", wait_ms=60_000)
    with engine.peer() as other:
        wait_until(lambda: other.ask("stats")["polls"] == 1)
    assert engine.stop() == 0
    reply = peer.receive()[1]
    assert (reply["error"]["code"], reply["error"]["retry"]) == ("shutting_down", True)


def test_rows_that_contradict_the_log_stop_the_start_with_their_name(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="mailer", start="begin"))
    engine.stop()
    with sqlite3.connect(engine.directory / "armin.db") as file:
        file.execute("UPDATE worker_groups SET cursor = 77")
    file.close()
    process = engine.launch()
    assert process.wait(90) == EXIT_CODES[CorruptDatabase]
    assert process.stdout is not None
    process.stdout.close()
    engine.log.close()
    assert "'mailer' is 77, but the log ends at 0" in engine.errors()


def test_a_restart_gives_nothing_out_by_itself(engine: Engine, peer: Peer) -> None:
    good(peer.ask("create_group", group="g", start="begin"))
    good(peer.ask("create_session"))
    before = state(peer)
    engine.stop()
    engine.start()
    with engine.peer() as second:
        assert state(second) == before
        assert second.ask("stats")["commits"] == 0
        assert positions(lease(second)) == [1]
