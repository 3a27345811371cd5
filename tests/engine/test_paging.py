"""Pages over a session of 100,000 messages, both ways, never larger than the limit."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from armin_engine import Armin, limits
from armin_engine.armin import append_command
from armin_engine.records import new_message
from engine.observe import append, create, log

COUNT = 100_000


@pytest.fixture(scope="module")
def long_session() -> Iterator[Armin]:
    """Messages of all sizes, some larger than a page, sealed and in the delta."""
    chance = random.Random(5)
    with Armin(":memory:") as armin:
        armin.create_session()
        seq = 0
        while seq < COUNT:
            count = min(chance.choice([1, 500, 3000]), COUNT - seq)
            texts = [f"{seq + i + 1}:" + "x" * chance.choice([0, 5, 40, 200]) for i in range(count)]
            if chance.random() < 0.1:
                texts[0] = f"{seq + 1}:" + "y" * chance.choice([limits.PAGE_BYTES_MAX, 300_000])
            armin.apply([append_command(1, [new_message("user", text) for text in texts], None)])
            seq += count
            if chance.random() < 0.3 and seq < COUNT - 5000:
                armin.refresh_snapshot()
        assert armin.delta_messages > 1000
        yield armin


def numbers(page) -> list[int]:
    return [int(message.content.partition(":")[0]) for message in page.messages]


def check_size(page) -> None:
    assert page.count >= 1
    assert len(page.packed) <= limits.PAGE_BYTES_MAX or page.count == 1


@pytest.mark.parametrize("limit", [777, 10_000, 2**31])
def test_forward_pages_cover_the_session_and_stay_small(long_session: Armin, limit):
    seq, more = 0, True
    while more:
        page = long_session.read(1, after=seq, limit=limit)
        check_size(page)
        assert numbers(page) == list(range(seq + 1, seq + page.count + 1))
        assert page.count <= limit
        seq += page.count
        more = page.more
    assert seq == COUNT


@pytest.mark.parametrize("limit", [777, 10_000, 2**31])
def test_backward_pages_cover_the_session_and_stay_small(long_session: Armin, limit):
    before, more = COUNT + 1, True
    while more:
        page = long_session.read(1, before=before, limit=limit)
        check_size(page)
        assert numbers(page) == list(range(before - page.count, before))
        before -= page.count
        more = page.more
    assert before == 1


def test_a_long_session_stands_in_few_chunks(long_session: Armin):
    snapshot = long_session.snapshot().get(1)
    size = sum(len(chunk.data) for chunk in snapshot.chunks)
    assert len(snapshot.chunks) <= 3 * size // limits.CHUNK_BYTES + 20


def test_pages_of_the_log_stay_small_and_cover_it(long_session: Armin):
    position, more = 0, True
    while more:
        page = long_session.events(after=position, limit=10_000)
        assert [event.position for event in page.events] == list(
            range(position + 1, position + len(page.events) + 1)
        )
        assert sum(len(event.packed) for event in page.events) <= limits.PAGE_BYTES_MAX
        position += len(page.events)
        more = page.more
    assert position == COUNT + 1


def test_a_limit_of_one_gives_one(open_engine):
    armin = open_engine(":memory:")
    armin.apply([create(), append(1, "a", "b", "c")])
    assert [message.content for message in armin.read(1, limit=1).messages] == ["a"]
    assert [message.content for message in armin.read(1, before=4, limit=1).messages] == ["c"]
    assert len(log(armin, limit=1)) == 4
