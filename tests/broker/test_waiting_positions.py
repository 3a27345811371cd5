"""Replies that wait for their peer: `position` does not go back from one to the next."""

from __future__ import annotations

import msgpack
import pytest

from armin_broker import replies
from armin_engine.errors import BadRequest
from harness import Engine, Peer, wait_until


def test_replies_that_wait_say_no_older_position_than_those_before_them(engine: Engine, peer: Peer) -> None:
    peer.ask("create_session")
    peer.ask("append", session_id=1, role="user", content="x" * (900 << 10))
    count = 60
    with Peer(engine.endpoint("commands")) as slow:
        slow.socket.rcvhwm = 1
        for number in range(count):  # reads are rendered when there is room, writes when they are made
            slow.send("read", session_id=1, limit=1)
            slow.send("append", session_id=1, role="user", content=str(number))
            slow.send("sync", token="t")
            slow.send("append", session_id=9, role="user", content="refused")
        wait_until(lambda: peer.ask("stats")["commands"] > 4 * count)
        for _ in range(10):
            peer.ask("append", session_id=1, role="user", content="later")
        positions = [slow.receive()[1]["position"] for _ in range(4 * count)]
    assert positions[-1] >= 2 + count
    assert positions == sorted(positions)


@pytest.mark.parametrize("old", [0, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, 1 << 62])
@pytest.mark.parametrize("new", [0, 127, 128, 65_536, 1 << 32, (1 << 63) - 1])
def test_a_reply_at_a_later_position_differs_in_nothing_else(old: int, new: int) -> None:
    fine = {"id": 7, "key": "x" * 300}
    many = {f"n{number}": number for number in range(40)}
    for reply in (
        replies.ok(old, fine),
        replies.ok(old, {}),
        replies.ok(old, many),
        replies.page(old, "leases", (), 0, {}),
        replies.error(old, BadRequest("no", field="op")),
    ):
        moved = replies.at_position(reply, new)
        assert msgpack.unpackb(moved) == {**msgpack.unpackb(reply), "position": new}
        assert list(msgpack.unpackb(moved)) == list(msgpack.unpackb(reply))
