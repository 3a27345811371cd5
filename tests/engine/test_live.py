"""The live hub: what is committed from now on, for whoever still listens."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Sequence

import pytest

from armin_engine import Armin, Event, RecordingSink
from engine.observe import Listener, append, close, create, log, positions


def test_live_has_no_history(armin: Armin):
    armin.apply([create(), append(1, "a")])
    subscription, listener = armin.live.subscribe(), Listener()
    armin.live.attach(listener)
    assert subscription.get() is None
    assert listener.events == []
    armin.append(1, "user", "b")
    assert positions(list(subscription)) == positions(listener.events) == [3]


def test_live_events_are_those_of_the_log(armin: Armin):
    subscription = armin.live.subscribe()
    armin.apply([create("n"), append(1, "a", "b"), create(), close(1)])
    armin.append(2, "user", "c")
    assert list(subscription) == log(armin)


def test_a_subscription_may_follow_some_sessions(armin: Armin):
    armin.apply([create(), create(), create()])
    subscription = armin.live.subscribe([1, 3])
    armin.apply([append(1, "a"), append(2, "b"), append(3, "c"), close(2), close(3)])
    assert [(event.session_id, event.type) for event in subscription] == [
        (1, "message_appended"),
        (3, "message_appended"),
        (3, "session_closed"),
    ]


def test_a_full_subscription_drops_and_counts_and_harms_nobody(armin: Armin):
    small, large = armin.live.subscribe(capacity=2), armin.live.subscribe()
    armin.apply([create(), append(1, *"abcd")])
    assert positions(list(small)) == [1, 2]
    assert small.dropped == 3
    assert positions(list(large)) == [1, 2, 3, 4, 5]
    armin.append(1, "user", "e")
    assert positions(list(small)) == [6]  # the gap shows in the positions


def test_a_capacity_of_nothing_is_refused(armin: Armin):
    with pytest.raises(ValueError, match="at least 1"):
        armin.live.subscribe(capacity=0)


def test_a_closed_subscription_gets_no_more_and_keeps_what_came(armin: Armin):
    kept, closed = armin.live.subscribe(), armin.live.subscribe()
    armin.create_session()
    closed.close()
    armin.create_session()
    assert positions(list(closed)) == [1]
    assert closed.get(timeout=None) is None
    assert positions(list(kept)) == [1, 2]
    assert len(armin.live) == 1


def test_leaving_its_with_closes_a_subscription(armin: Armin):
    with armin.live.subscribe() as subscription:
        armin.create_session()
    armin.create_session()
    assert positions(list(subscription)) == [1]


def test_a_forgotten_subscription_is_cleaned_up(armin: Armin):
    kept = armin.live.subscribe()
    armin.live.subscribe()
    gc.collect()
    armin.create_session()
    assert len(armin.live) == 1
    assert positions(list(kept)) == [1]


class Raising:
    def deliver(self, events: Sequence[Event]) -> None:
        raise RuntimeError("dead")


def test_a_raising_listener_is_let_go_and_harms_nobody(open_engine, caplog):
    sink, before, after = RecordingSink(), Listener(), Listener()
    armin = open_engine(sink=sink)
    armin.live.attach(before)
    armin.live.attach(Raising())
    armin.live.attach(after)
    subscription = armin.live.subscribe()
    with caplog.at_level(logging.CRITICAL, "armin_engine"):
        outcomes = armin.apply([create(), append(1, "a")])
    assert outcomes[1].first_seq == 1
    assert len(armin.live) == 3
    armin.append(1, "user", "b")
    for events in (before.events, after.events, list(subscription), sink.events):
        assert positions(events) == [1, 2, 3]


def test_a_detached_listener_gets_no_more(armin: Armin):
    listener = Listener()
    armin.live.attach(listener)
    armin.create_session()
    armin.live.detach(listener)
    armin.live.detach(listener)
    armin.create_session()
    assert positions(listener.events) == [1]


def test_a_listener_may_detach_itself_while_it_is_told(armin: Armin):
    class Once(Listener):
        def deliver(self, events: Sequence[Event]) -> None:
            super().deliver(events)
            armin.live.detach(self)

    once, other = Once(), Listener()
    armin.live.attach(once)
    armin.live.attach(other)
    armin.create_session()
    armin.create_session()
    assert positions(once.events) == [1]
    assert positions(other.events) == [1, 2]


def test_a_listener_may_write_and_all_see_the_same_order(open_engine):
    class Answering(Listener):
        def deliver(self, events: Sequence[Event]) -> None:
            super().deliver(events)
            if armin.position < 6:
                armin.append(1, "user", "more")

    sink, first, last = RecordingSink(), Answering(), Listener()
    armin = open_engine(sink=sink)
    armin.live.attach(first)
    armin.live.attach(last)
    armin.apply([create(), append(1, "a")])
    for events in (first.events, last.events, sink.events):
        assert positions(events) == [1, 2, 3, 4, 5, 6]


def test_a_subscription_is_read_in_another_thread(armin: Armin):
    subscription = armin.live.subscribe()
    seen: list[int] = []

    def follow() -> None:
        while (event := subscription.get(timeout=None)) is not None:
            seen.append(event.position)

    follower = threading.Thread(target=follow)
    follower.start()
    armin.create_session()
    for _ in range(200):
        armin.append(1, "user", "x")
    subscription.close()
    follower.join(timeout=10)
    assert not follower.is_alive()
    assert seen == list(range(1, 202))


def test_closing_the_engine_wakes_whoever_waits(armin: Armin):
    subscription = armin.live.subscribe()
    waiter = threading.Thread(target=subscription.get, args=(None,))
    waiter.start()
    armin.close()
    waiter.join(timeout=10)
    assert not waiter.is_alive()
