"""Snapshot and delta: views that never change, and together are the whole session."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from armin_engine import Armin, Conflict, CursorInvalid, SessionNotFound, limits
from engine.observe import append, close, contents, create, messages, snapshot_and_delta


def picture(armin: Armin) -> list[tuple[Any, Any]]:
    """Views held now, each with what it says now."""
    snapshot = armin.snapshot()
    views: list[Any] = [snapshot, *snapshot]
    ids = [info.id for info in armin.sessions(limit=10_000).sessions]
    views += [armin.delta(session_id) for session_id in ids]
    views += [armin.find(session_id).history() for session_id in ids]
    return [(view, said(view)) for view in views]


def said(view: Any) -> Any:
    if hasattr(view, "chunks"):
        if hasattr(view, "info"):
            return view.info(), list(view.messages())
        return view.seq, [view.message(seq) for seq in range(1, view.seq + 1)]
    if hasattr(view, "leaves") or hasattr(view, "at"):
        return view.position, [(one.info(), list(one.messages())) for one in view]
    return view.first_seq, len(view), list(view.messages())


def test_views_once_handed_out_never_change(armin: Armin):
    chance = random.Random(7)
    pictures = []
    for step in range(60):
        armin.apply([create()] if step % 7 == 0 else [append(chance.randint(1, 1 + step // 7), *"ab")])
        if chance.random() < 0.3:
            armin.refresh_snapshot()
        if step == 40:
            armin.close_session(2)
        pictures += picture(armin)
    assert len(pictures) > 500
    for view, then in pictures:
        assert said(view) == then


def test_views_stay_readable_when_the_engine_is_closed(armin: Armin):
    armin.apply([create(), append(1, "a")])
    armin.refresh_snapshot()
    armin.append(1, "user", "b")
    pictures = picture(armin)
    armin.close()
    for view, then in pictures:
        assert said(view) == then


@pytest.fixture
def often_switched() -> Iterator[None]:
    """Threads take turns a hundred times as often as by default."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 100)
    yield
    sys.setswitchinterval(interval)


def test_views_may_be_read_in_another_thread_while_the_engine_writes(armin: Armin, often_switched):
    """Readers compare what they hold over and over while sessions grow, seal, merge and fold."""
    armin.apply([create() for _ in range(20)])
    for session_id in range(1, 21):
        armin.append(session_id, "user", f"first of {session_id}")
    armin.refresh_snapshot()
    held = [picture(armin)]
    wrong: list[Any] = []
    rounds = 0
    done = threading.Event()

    def read() -> None:
        nonlocal rounds
        while not done.is_set() or rounds == 0:
            for view, then in held[-1]:
                if said(view) != then:
                    wrong.append((view, then))
            rounds += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    chance = random.Random(11)
    for step in range(120):
        armin.apply([append(chance.randint(1, 20), "x" * chance.randint(0, 3000))] * 3 + [create()])
        if step % 5 == 0:
            armin.refresh_snapshot()
        if step == 60:
            held.append(picture(armin))
    done.set()
    for reader in readers:
        reader.join(timeout=30)
    assert wrong == []
    assert rounds > 0


def test_snapshot_and_delta_are_the_whole_session_without_overlap(armin: Armin):
    armin.create_session()
    for number in range(50):
        armin.append(1, "user", str(number))
        if number % 7 == 3:
            armin.refresh_snapshot()
        past, recent = armin.snapshot().get(1), armin.delta(1)
        assert recent.first_seq == (past.seq if past else 0) + 1
        assert snapshot_and_delta(armin, 1) == messages(armin, 1)
    assert [message.seq for message in snapshot_and_delta(armin, 1)] == list(range(1, 51))


def test_a_refresh_moves_the_border_and_nothing_else(armin: Armin):
    armin.apply([create("n", {"a": 1}), create(), append(1, "a", "b")])
    armin.close_session(2)
    assert armin.snapshot().position == 0
    before = messages(armin, 1)
    assert armin.refresh_snapshot() == 5
    assert (armin.delta_messages, armin.delta_bytes, len(armin.delta(1))) == (0, 0, 0)
    assert list(armin.snapshot().get(1).messages()) == before == messages(armin, 1)
    assert armin.snapshot().get(1).info() == armin.session(1)
    assert armin.snapshot().get(2).info().closed
    assert len(armin.snapshot()) == 2
    assert [session.id for session in armin.snapshot()] == [1, 2]


def test_a_refresh_of_nothing_keeps_the_view(armin: Armin):
    armin.create_session()
    armin.refresh_snapshot()
    view = armin.snapshot()
    assert armin.refresh_snapshot() == 1
    assert armin.snapshot() is view
    assert armin.counters.refreshes == 1


def test_a_closure_alone_reaches_the_snapshot(armin: Armin):
    armin.apply([create(), append(1, "a")])
    armin.refresh_snapshot()
    old = armin.snapshot()
    armin.close_session(1)
    assert not armin.snapshot().get(1).info().closed
    armin.refresh_snapshot()
    assert armin.snapshot().get(1).info().closed
    assert not old.get(1).info().closed


def test_a_snapshot_knows_nothing_of_younger_sessions(armin: Armin):
    armin.create_session()
    armin.refresh_snapshot()
    view = armin.snapshot()
    armin.create_session()
    assert view.get(2) is None
    assert view.get(1) is not None
    assert view.get(0) is view.get(-1) is view.get(2**63 - 1) is None
    assert len(view) == len(list(view)) == 1


def _leaves(view: Any) -> tuple[Any, ...]:
    return view._leaves


@pytest.mark.parametrize("sessions", [3_000, 12_000])
def test_a_refresh_copies_the_leaves_that_changed_and_no_other(open_engine, sessions):
    """What a refresh costs does not depend on the number of other sessions."""
    armin = open_engine(":memory:")
    for _ in range(sessions // 1000):
        armin.apply([create()] * 1000)
    armin.refresh_snapshot()
    before = armin.snapshot()
    leaf = limits.SESSIONS_PER_LEAF
    armin.apply([append(1, "a"), append(2, "a"), append(leaf + 5, "a"), close(leaf + 6)])
    armin.refresh_snapshot()
    after = armin.snapshot()
    copied = [old is not new for old, new in zip(_leaves(before), _leaves(after), strict=True)]
    assert copied == [True, True] + [False] * (len(copied) - 2)
    changed = [s.id for s, t in zip(before, after, strict=True) if s is not t]
    assert changed == [1, 2, leaf + 5, leaf + 6]


def test_new_sessions_fill_the_last_leaf(open_engine):
    armin = open_engine(":memory:")
    leaf = limits.SESSIONS_PER_LEAF
    for size in (leaf - 1, 1, 1, leaf, 2 * leaf + 3):
        armin.apply([create()] * size)
        armin.refresh_snapshot()
    sizes = [len(one) for one in _leaves(armin.snapshot())]
    assert sizes == [leaf] * 4 + [4]
    assert [session.id for session in armin.snapshot()] == list(range(1, 4 * leaf + 5))


def test_snapshot_and_delta_are_read_in_pages(armin: Armin):
    armin.apply([create(), create(), append(1, *"abc")])
    armin.refresh_snapshot()
    armin.append_many(1, [{"role": "user", "content": c} for c in "def"])
    armin.create_session()
    page = armin.read_snapshot(1, limit=2)
    assert (contents(page.messages), page.more, page.count) == (["a", "b"], True, 2)
    assert (page.snapshot_position, page.snapshot_seq) == (5, 3)
    page = armin.read_snapshot(1, after=2, limit=2)
    assert (contents(page.messages), page.more) == (["c"], False)
    assert armin.read_snapshot(1, after=5).messages == []
    page = armin.read_delta(1, limit=2)
    assert (contents(page.messages), page.more) == (["d", "e"], True)
    assert (page.snapshot_position, page.snapshot_seq) == (5, 3)
    page = armin.read_delta(1, after=5, limit=2, snapshot_position=5)
    assert (contents(page.messages), page.more) == (["f"], False)
    younger = armin.read_snapshot(3)
    assert (younger.messages, younger.more, younger.snapshot_seq) == ([], False, 0)
    for read in (armin.read_snapshot, armin.read_delta):
        with pytest.raises(CursorInvalid):
            read(1, after=7)
        with pytest.raises(SessionNotFound):
            read(9)


def test_a_delta_behind_a_snapshot_that_has_moved_is_a_conflict(armin: Armin):
    armin.apply([create(), append(1, "a")])
    at = armin.refresh_snapshot()
    armin.append(1, "user", "b")
    assert armin.read_delta(1, snapshot_position=at).count == 1
    armin.refresh_snapshot()
    with pytest.raises(Conflict) as caught:
        armin.read_delta(1, snapshot_position=at)
    assert caught.value.reason == "snapshot_moved"


def test_a_view_stays_as_it_was_through_folds_that_nobody_looks_at(armin: Armin):
    """Without a view handed out in between, folds change sessions in place: not those of a view."""
    for session_id in (1, 2, 3):
        armin.create_session()
        armin.append(session_id, "user", "first")
    armin.refresh_snapshot()
    view = armin.snapshot()
    before = [(session.info(), list(session.messages())) for session in view]
    for number in range(31):  # past the tail that stays unsealed, twice
        armin.append(1, "user", str(number))
        armin.append(2 + number % 2, "user", str(number))
        if number == 30:
            armin.close_session(2)
            armin.create_session()
        if number % 3 == 0:
            armin.refresh_snapshot()
    armin.refresh_snapshot()
    assert [(session.info(), list(session.messages())) for session in view] == before
    assert [session.seq for session in armin.snapshot()] == [32, 17, 16, 0]
    assert [m.content for m in armin.snapshot().get(1).messages()] == ["first", *map(str, range(31))]
    assert armin.verify().equal
