"""Packed histories: pages cut from chunks and a tail, against a plain list."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from armin_engine import limits
from armin_engine.chunks import Chunk, History, Slice, extend

SIZES = st.one_of(st.integers(1, 40), st.sampled_from([100_000, limits.CHUNK_BYTES, limits.CHUNK_BYTES + 1]))


def packed(sizes: list[int]) -> list[bytes]:
    """Messages of these sizes, told apart by their bytes."""
    return [bytes([index % 251]) * size for index, size in enumerate(sizes)]


def built(batches: list[list[int]], tail: list[int]) -> tuple[History, list[bytes]]:
    plain = packed([size for batch in [*batches, tail] for size in batch])
    chunks: tuple[Chunk, ...] = ()
    done = 0
    for batch in batches:
        if batch:
            chunks = extend(chunks, done + 1, plain[done : done + len(batch)])
            done += len(batch)
    return History(chunks, plain[done:], len(tail)), plain


def expected_after(plain: list[bytes], cursor: int, count: int, bytes_max: int) -> list[bytes]:
    found: list[bytes] = []
    for message in plain[cursor : cursor + count]:
        if found and sum(map(len, found)) + len(message) > bytes_max:
            break
        found.append(message)
    return found


def expected_before(plain: list[bytes], cursor: int, count: int, bytes_max: int) -> list[bytes]:
    return expected_after(plain[: cursor - 1][::-1], 0, count, bytes_max)[::-1]


def check_slice(cut: Slice, wanted: list[bytes], first: int) -> None:
    assert cut.joined() == b"".join(wanted)
    assert cut.length == len(wanted)
    if wanted:
        assert (cut.first, cut.last) == (first, first + len(wanted) - 1)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.lists(SIZES, max_size=12), max_size=6),
    tail=st.lists(SIZES, max_size=6),
    data=st.data(),
)
def test_pages_are_those_of_a_plain_list(batches, tail, data):
    history, plain = built(batches, tail)
    assert history.seq == len(plain)
    seqs = range(1, len(plain) + 1)
    assert [history.message(seq) for seq in seqs] == plain
    for seq in data.draw(st.permutations(seqs)):
        assert history.message(seq) == plain[seq - 1]
    for _ in range(5):
        count = data.draw(st.integers(1, len(plain) + 2))
        budget = data.draw(st.one_of(st.integers(1, 300), st.integers(1, 1 << 20)))
        after = data.draw(st.integers(0, len(plain)))
        check_slice(
            history.after(after, count, budget), expected_after(plain, after, count, budget), after + 1
        )
        before = data.draw(st.one_of(st.integers(1, len(plain) + 2), st.just(2**63 - 1)))
        wanted = expected_before(plain, before, count, budget)
        end = min(before - 1, len(plain))
        check_slice(history.before(before, count, budget), wanted, end - len(wanted) + 1)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.lists(SIZES, max_size=12), max_size=6),
    tail=st.lists(SIZES, max_size=6),
    count=st.integers(1, 30),
    budget=st.integers(1, 1 << 19),
)
def test_pages_both_ways_cover_everything_once(batches, tail, count, budget):
    history, plain = built(batches, tail)
    forward, cursor = [], 0
    while cursor < history.seq:
        cut = history.after(cursor, count, budget)
        assert cut.first == cursor + 1
        forward.append(cut.joined())
        cursor = cut.last
    backward, cursor = [], history.seq + 1
    while cursor > 1:
        cut = history.before(cursor, count, budget)
        assert cut.last == cursor - 1
        backward.append(cut.joined())
        cursor = cut.first
    assert b"".join(forward) == b"".join(plain) == b"".join(backward[::-1])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches=st.lists(st.lists(SIZES, min_size=1, max_size=20), min_size=1, max_size=30))
def test_chunks_are_consecutive_and_bounded(batches):
    history, plain = built(batches, [])
    seq = 1
    for chunk in history.chunks:
        assert chunk.first == seq
        assert chunk.ends[-1] == len(chunk.data)
        assert len(chunk.data) <= limits.CHUNK_BYTES or len(chunk.ends) == 1
        seq = chunk.last + 1
    assert seq == len(plain) + 1


@pytest.mark.parametrize("size", [60, 600, 6_000])
@pytest.mark.parametrize("per_refresh", [1, 7])
def test_chunks_stay_few_however_often_a_session_is_extended(size, per_refresh):
    """Small chunks merge in tiers: a handful below each full one, each message copied a few times."""
    chunks: tuple[Chunk, ...] = ()
    total = copied = 0
    for seq in range(1, 6_000, per_refresh):
        old = {id(chunk) for chunk in chunks}
        chunks = extend(chunks, seq, [b"x" * size] * per_refresh)
        total += size * per_refresh
        copied += sum(len(chunk.data) for chunk in chunks if id(chunk) not in old)
        full = total // (limits.CHUNK_BYTES // 2) + 1
        assert len(chunks) <= 2 * full + 20
    assert copied <= 14 * total


def test_an_extension_leaves_the_old_chunks_as_they_were():
    chance = random.Random(3)
    chunks: tuple[Chunk, ...] = ()
    seq = 1
    for _ in range(200):
        batch = [chance.randbytes(chance.randint(1, 4000)) for _ in range(chance.randint(1, 9))]
        before = chunks
        then = [(chunk.first, chunk.data, list(chunk.ends)) for chunk in before]
        chunks = extend(chunks, seq, batch)
        seq += len(batch)
        assert [(chunk.first, chunk.data, list(chunk.ends)) for chunk in before] == then


def test_a_tail_that_grows_is_not_seen_by_an_older_history():
    tail = [b"a", b"b"]
    history = History((), tail, len(tail))
    tail.append(b"c")
    assert history.seq == 2
    assert history.after(0, 10, 100).parts == [b"a", b"b"]
    assert history.before(9, 10, 100).parts == [b"a", b"b"]
