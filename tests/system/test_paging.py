"""A session of 100,000 messages, and long lists of sessions and facts, in bounded replies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from armin_broker import protocol
from harness import Engine, Peer

MESSAGES = 100_000
SESSIONS = 2_500


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    directory = tmp_path_factory.mktemp("b") / "e"
    engine = Engine(directory).start()
    with engine.peer() as peer:
        peer.ask("create_session", name="long")
        batch = [{"role": "user", "content": f"message {'x' * (number % 500)}"} for number in range(10_000)]
        for _ in range(MESSAGES // len(batch)):
            assert peer.ask("append_many", session_id=1, messages=batch)["ok"]
        for number in range(SESSIONS):
            peer.send("create_session", meta={"text": "m" * 2000, "n": number})
        for _ in range(SESSIONS):
            assert peer.receive()[1]["ok"]
        yield peer
    assert engine.stop() == 0


def bounded(peer: Peer, op: str, **fields: Any) -> dict[str, Any]:
    """A reply, checked against the limit."""
    peer.send(op, **fields)
    reply = peer.socket.recv_multipart()[1]
    assert len(reply) <= protocol.PAGE_BYTES_MAX
    decoded: dict[str, Any] = msgpack.unpackb(reply)
    assert decoded["ok"], decoded
    return decoded


@pytest.mark.parametrize("refreshed", [False, True])
@pytest.mark.parametrize("op", ["read", "delta", "snapshot"])
def test_a_long_session_pages_forward_in_bounded_replies(big: Peer, op: str, refreshed: bool) -> None:
    if refreshed:
        big.ask("refresh_snapshot")
    if op == "read":
        expected = MESSAGES
    else:
        seq = big.ask("snapshot", session_id=1, limit=1)["snapshot_seq"]
        expected = seq if op == "snapshot" else MESSAGES - seq
    seqs: list[int] = []
    after, more = 0, True
    while more:
        page = bounded(big, op, session_id=1, after=after, limit=1_000_000)
        more = page["more"]
        seqs += [message["seq"] for message in page["messages"]]
        after = seqs[-1] if seqs else 0
    assert seqs == list(
        range(MESSAGES - expected + 1, MESSAGES + 1) if op == "delta" else range(1, expected + 1)
    )


def test_a_long_session_pages_backward_in_bounded_replies(big: Peer) -> None:
    pages: list[list[int]] = []
    before, more = protocol.ID_MAX, True
    while more:
        page = bounded(big, "read", session_id=1, before=before, limit=1_000_000)
        pages.append([message["seq"] for message in page["messages"]])
        before, more = pages[-1][0], page["more"]
    assert [seq for page in reversed(pages) for seq in page] == list(range(1, MESSAGES + 1))


def test_the_log_pages_in_bounded_replies(big: Peer) -> None:
    positions: list[int] = []
    more = True
    while more:
        page = bounded(big, "log", after=len(positions), limit=1_000_000)
        positions += [event["position"] for event in page["events"]]
        more = page["more"]
    assert positions == list(range(1, MESSAGES + SESSIONS + 2))


@pytest.mark.parametrize("direction", ["after", "before"])
def test_sessions_page_in_bounded_replies(big: Peer, direction: str) -> None:
    ids: list[int] = []
    cursor, more = (0 if direction == "after" else protocol.ID_MAX), True
    while more:
        page = bounded(big, "sessions", limit=1_000_000, **{direction: cursor})
        found = [session["id"] for session in page["sessions"]]
        assert found == sorted(found)
        ids = ids + found if direction == "after" else found + ids
        cursor, more = (found[-1] if direction == "after" else found[0]), page["more"]
    assert ids == list(range(1, SESSIONS + 2))


def test_the_default_limit_is_100_and_the_largest_is_clamped(big: Peer) -> None:
    assert len(bounded(big, "read", session_id=1)["messages"]) == protocol.PAGE_ITEMS_DEFAULT
    assert len(bounded(big, "log")["events"]) == protocol.PAGE_ITEMS_DEFAULT
    assert len(bounded(big, "sessions")["sessions"]) == protocol.PAGE_ITEMS_DEFAULT
