"""Packed messages of one session: sealed chunks and the pages cut from them.

A chunk is one bytes object and the offsets at which its messages end; a page is slices of chunks,
joined and never packed again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from armin_engine import limits

ENDS: Final = "I"  # offsets in a chunk: it is small, or one message


class Chunk:
    """An immutable run of packed messages, seqs `first` to `last`."""

    __slots__ = ("data", "ends", "first")

    def __init__(self, first: int, data: bytes, ends: array[int]) -> None:
        self.first = first
        self.data = data
        self.ends = ends  # ends[i] is the offset behind message i; it begins at ends[i - 1], or at 0

    @property
    def last(self) -> int:
        """Seq of the last message."""
        return self.first + len(self.ends) - 1

    def offset(self, index: int) -> int:
        """Where message `index` begins; `len(ends)` gives the end of the data."""
        return self.ends[index - 1] if index else 0

    def message(self, seq: int) -> bytes:
        """One packed message."""
        index = seq - self.first
        return self.data[self.offset(index) : self.ends[index]]


def seal(first: int, messages: Sequence[bytes]) -> Chunk:
    """Join packed messages to a chunk."""
    return Chunk(first, b"".join(messages), array(ENDS, list(accumulate(map(len, messages)))))


def extend(chunks: tuple[Chunk, ...], first: int, messages: Sequence[bytes]) -> tuple[Chunk, ...]:
    """Append messages to sealed chunks, merging small ones in tiers.

    What is new is merged with its left neighbour when that one is at most twice as large and both stay
    under CHUNK_BYTES, and so on; so a message is copied a few times at most, however often a session is
    extended.
    """
    size = sum(map(len, messages))
    if size > limits.CHUNK_BYTES:
        return (*chunks, *_sealed(first, messages))
    kept = len(chunks)
    while kept:
        left = len(chunks[kept - 1].data)
        if left > 2 * size or left + size > limits.CHUNK_BYTES:
            break
        size += left
        kept -= 1
    return (*chunks[:kept], _joined(chunks[kept:], first, messages))


def _sealed(first: int, messages: Sequence[bytes]) -> Iterator[Chunk]:
    """Chunks of at most CHUNK_BYTES, or of one message."""
    ends = list(accumulate(map(len, messages)))
    begin = offset = 0
    while begin < len(messages):
        end = max(bisect_right(ends, offset + limits.CHUNK_BYTES, begin), begin + 1)
        yield seal(first + begin, messages[begin:end])
        begin, offset = end, ends[end - 1]


def _joined(chunks: tuple[Chunk, ...], first: int, messages: Sequence[bytes]) -> Chunk:
    """One chunk of some chunks and the messages behind them."""
    if not chunks:
        return seal(first, messages)
    ends, end = chunks[0].ends[:], len(chunks[0].data)
    for chunk in chunks[1:]:
        ends.extend([end + each for each in chunk.ends])
        end += len(chunk.data)
    for message in messages:
        end += len(message)
        ends.append(end)
    return Chunk(chunks[0].first, b"".join((*[chunk.data for chunk in chunks], *messages)), ends)


class ChunkWriter:
    """The chunks of one session, from seq 1 on; each is sealed once, when it is full.

    So in recovery no message waits as an object of its own, and memory stays in one piece.
    """

    __slots__ = ("_chunks", "_data", "_ends", "_first")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._first = 1
        self._data = bytearray()
        self._ends = array(ENDS)

    def append(self, packed: bytes) -> None:
        """Take the next message."""
        data = self._data
        if data and len(data) + len(packed) > limits.CHUNK_BYTES:
            self._seal()
            data = self._data
        data += packed
        self._ends.append(len(data))

    def _seal(self) -> None:
        self._chunks.append(Chunk(self._first, bytes(self._data), self._ends[:]))  # at their exact sizes
        self._first += len(self._ends)
        self._data, self._ends = bytearray(), array(ENDS)

    def sealed(self) -> tuple[Chunk, ...]:
        """All chunks; to be asked for once, at the end."""
        if self._ends:
            self._seal()
        return tuple(self._chunks)


class Slice(NamedTuple):
    """Packed messages `first` to `last`, in order; `first` > `last` where there are none."""

    parts: list[bytes]
    first: int
    last: int

    @property
    def length(self) -> int:
        """How many messages."""
        return self.last - self.first + 1

    def joined(self) -> bytes:
        """The packed messages, one after the other."""
        return b"".join(self.parts)


class History:
    """One session's packed messages at one moment: sealed chunks, then a tail.

    The tail's list may grow behind `tail_count` while this is in use; what is counted never changes.
    """

    __slots__ = ("_chunk", "chunks", "sealed", "seq", "tail")

    def __init__(self, chunks: tuple[Chunk, ...], tail: list[bytes], tail_count: int) -> None:
        self.chunks = chunks
        self._chunk: Chunk | None = None  # of the last message that was asked for; the next is near
        self.tail = tail
        self.sealed = chunks[-1].last if chunks else 0
        self.seq = self.sealed + tail_count

    def message(self, seq: int) -> bytes:
        """One packed message, `seq` from 1 to `self.seq`."""
        if seq > self.sealed:
            return self.tail[seq - self.sealed - 1]
        chunk = self._chunk
        if chunk is None or not 0 <= seq - chunk.first < len(chunk.ends):
            chunk = self._chunk = self.chunks[self._chunk_of(seq)]
        return chunk.message(seq)

    def after(self, cursor: int, count: int, bytes_max: int) -> Slice:
        """The messages right behind `cursor`: at most `count`, at most `bytes_max` but at least one."""
        seq, stop, room = cursor + 1, min(cursor + count, self.seq), bytes_max
        first, parts = seq, list[bytes]()
        chunk_index = self._chunk_of(seq)
        while seq <= min(stop, self.sealed):
            chunk = self.chunks[chunk_index]
            begin = seq - chunk.first
            start = chunk.offset(begin)
            end = bisect_right(chunk.ends, start + room, begin, min(len(chunk.ends), stop - chunk.first + 1))
            if end == begin:
                if parts:
                    return Slice(parts, first, seq - 1)
                end = begin + 1
            piece = chunk.data[start : chunk.ends[end - 1]]
            parts.append(piece)
            room -= len(piece)
            seq = chunk.first + end
            if seq <= min(stop, chunk.last):  # the chunk holds more than there is room for
                return Slice(parts, first, seq - 1)
            chunk_index += 1
        if seq <= stop:
            tail = self.tail[seq - self.sealed - 1 : stop - self.sealed]
            fit = _fitting(tail, room) or (0 if parts else 1)
            parts += tail[:fit]
            seq += fit
        return Slice(parts, first, seq - 1)

    def before(self, cursor: int, count: int, bytes_max: int) -> Slice:
        """The messages right before `cursor`, in ascending order, under the same bounds."""
        last = min(cursor - 1, self.seq)
        seq, stop, room = last, max(last - count, 0), bytes_max
        parts: list[bytes] = []
        if seq > max(stop, self.sealed):
            parts = self.tail[max(stop - self.sealed, 0) : seq - self.sealed][::-1]
            fit = _fitting(parts, room) or 1
            seq -= fit
            if fit < len(parts):
                return Slice(parts[fit - 1 :: -1], seq + 1, last)
            room -= sum(map(len, parts))
        chunk_index = self._chunk_of(seq)
        while seq > stop:
            chunk = self.chunks[chunk_index]
            end = seq - chunk.first + 1
            lowest = max(stop + 1 - chunk.first, 0)
            begin = self._begin_within(chunk, lowest, end, room)
            if begin == end:
                if parts:
                    break
                begin = end - 1
            piece = chunk.data[chunk.offset(begin) : chunk.ends[end - 1]]
            parts.append(piece)
            room -= len(piece)
            seq = chunk.first + begin - 1
            if begin > lowest:
                break
            chunk_index -= 1
        return Slice(parts[::-1], seq + 1, last)

    @staticmethod
    def _begin_within(chunk: Chunk, lowest: int, end: int, room: int) -> int:
        """The first message from which the run up to `end` fits the room; `end` if none does."""
        floor = chunk.ends[end - 1] - room
        if chunk.offset(lowest) >= floor:
            return lowest
        return bisect_left(chunk.ends, floor, lowest, end - 1) + 1

    def _chunk_of(self, seq: int) -> int:
        return bisect_right(self.chunks, seq, key=_first) - 1


def _first(chunk: Chunk) -> int:
    return chunk.first


def _fitting(messages: Sequence[bytes], room: int) -> int:
    """How many of them fit, from the first on."""
    return bisect_right(list(accumulate(map(len, messages))), room)
