"""One order for everything: SQLite, snapshot, delta, log, live and effects tell the same story."""

from __future__ import annotations

import random

import pytest

from armin_engine import RecordingSink
from engine.observe import (
    Listener,
    append,
    close,
    create,
    log,
    messages,
    positions,
    rows,
    session_ids,
    snapshot_and_delta,
)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_the_same_everywhere(open_engine, path, seed):
    chance = random.Random(seed)
    sink, listener = RecordingSink(), Listener()
    armin = open_engine(sink=sink)
    armin.live.attach(listener)
    subscription = armin.live.subscribe()
    for number in range(80):
        known = max(len(session_ids(armin)), 1)
        group = [create()] if number % 9 == 0 else []
        group += [append(chance.randint(1, known), f"{number}a", f"{number}b"), append(1, f"{number}c")]
        if number % 25 == 24:
            group.insert(chance.randint(0, len(group)), close(chance.randint(2, known)))
        chance.shuffle(group)
        armin.apply(group)
        if chance.random() < 0.2:
            armin.refresh_snapshot()
    stored = rows(path)
    told = [event.unpack() for event in log(armin)]
    assert [row[0] for row in stored["log"]] == list(range(1, armin.position + 1))
    assert positions(sink.events) == positions(listener.events) == [row[0] for row in stored["log"]]
    assert [event.unpack() for event in sink.events] == told
    assert [event.unpack() for event in listener] == told
    assert [event.unpack() for event in subscription] == told
    assert [(event["type"], event["session_id"]) for event in told] == [
        ((None, "session_created", "message_appended", "session_closed")[kind], session_id)
        for _, kind, session_id, _, _ in stored["log"]
    ]
    logged = [row[3] for row in stored["log"] if row[1] == 2]
    assert logged == sorted(logged) == [row[0] for row in stored["messages"]]
    for session_id in session_ids(armin):
        ids = [row[0] for row in stored["messages"] if row[1] == session_id]
        assert [message.id for message in messages(armin, session_id)] == ids
        assert [message.id for message in snapshot_and_delta(armin, session_id)] == ids
        assert [
            event["message"]["id"]
            for event in told
            if event["type"] == "message_appended" and event["session_id"] == session_id
        ] == ids
