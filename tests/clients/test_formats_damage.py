"""Whatever the bytes: reading them gives conversations that the engine takes, and problems."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from armin.importers.byte_source import ByteSource
from armin.importers.conversation import Conversation
from armin.importers.detect import FORMATS, detect
from armin.importers.outcome import Problem, ProblemKind, UnknownFormat
from armin.importers.reading import read_conversations
from armin_engine import checks

TRANSCRIPTS = Path(__file__).parent / "transcripts"
FILES = {path.name.split(".")[0]: path.read_bytes() for path in sorted(TRANSCRIPTS.iterdir())}


def read(data: bytes, named: str | None = None) -> list[Conversation | Problem]:
    """Everything that a file holds, each conversation checked as the engine would check it."""
    source = ByteSource(io.BytesIO(data))
    found = []
    for item in read_conversations(source, detect(source, named)):
        if isinstance(item, Conversation):
            checks.check_name(item.name)
            if item.meta is not None:
                checks.check_meta(item.meta)
            for message in item.messages:
                checks.new_message(message.role, message.content, message.meta)
        found.append(item)
    return found


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with a few bytes or lines gone, doubled, changed or added."""
    data = draw(st.sampled_from(sorted(FILES.values())))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.integers(0, 40)))
        new = draw(
            st.sampled_from([b"", b"\n", b'"', b"{", b"}", b"]", b",", b"null", b"\xff", b"\xc3", b"1e999"])
        )
        data = (
            data[:begin]
            + draw(st.sampled_from([new, data[begin:end] * 2, new + data[begin:end]]))
            + data[end:]
        )
    return data


def test_transcripts_are_read_without_a_problem() -> None:
    assert sorted(FILES) == sorted(FORMATS)
    for name, data in FILES.items():
        assert not [item for item in read(data) if isinstance(item, Problem)], name


@given(damaged(), st.none() | st.sampled_from(FORMATS))
@example(b'{"armin": "export/1", "database": "\\ud800"}\n', None)
@example(b'{"armin": "export/1", "database": "d"}\n{"session": {"id": 1}}\n', None)
@example(b"[" * 5000, "sharegpt")
@example(b'{"a": {"messages": [[{"text": ' + b"[" * 5000, None)
@example(b'{"messages": [' + b"[" * 900 + b"]" * 900 + b"]}\n", None)
def test_damaged_file_gives_sound_conversations_and_problems(data: bytes, named: str | None) -> None:
    try:
        found = read(data, named)
    except UnknownFormat:
        return
    for item in found:
        if isinstance(item, Problem):
            assert str(item)
            assert item.offset is None or 0 <= item.offset <= len(data)


@given(st.binary(max_size=60), st.sampled_from(FORMATS))
def test_any_bytes_under_any_name_are_no_crash(data: bytes, named: str) -> None:
    try:
        found = read(data, named)
    except UnknownFormat:
        assert data[:1] in (b"\x1f", b"\xff", b"\xfe") or b"\0" in data[:5]  # gzip, UTF-16, UTF-32
    else:
        assert not [item for item in found if isinstance(item, Conversation)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_told_apart_from_a_broken_one(name: str) -> None:
    data = FILES[name]
    for cut in range(1, len(data)):
        kinds = {item.kind for item in read(data[:cut], name) if isinstance(item, Problem)}
        assert kinds <= {ProblemKind.CUT_OFF}, cut


# --- memory ---------------------------------------------------------------------------------------


class Made(io.RawIOBase):
    """A stream that is made while it is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return next(self._pieces, b"")


def conversation(number: int, key: str) -> bytes:
    words = {"messages": ("role", "content"), "conversations": ("from", "value")}[key]
    turns = [dict(zip(words, ("user", f"number {number} " + "x" * 200), strict=True)) for _ in range(20)]
    return json.dumps({"id": number, key: turns}).encode()


def array(count: int) -> Iterator[bytes]:
    yield b"["
    for number in range(count):
        yield b"," * (number > 0) + conversation(number, "conversations")
    yield b"]"


def lines(count: int) -> Iterator[bytes]:
    return (conversation(number, "messages") + b"\n" for number in range(count))


def members(count: int) -> Iterator[bytes]:
    yield b"{"
    for number in range(count):
        turns = [[{"text": f"{number} " + "x" * 200, "sender": "a", "timestamp": "t"}] for _ in range(20)]
        yield b"," * (number > 0) + json.dumps({str(number): {"messages": turns}}).encode()[1:-1]
    yield b"}"


def one_long_session(count: int) -> Iterator[bytes]:
    def line(**fields: Any) -> bytes:
        return json.dumps(fields).encode() + b"\n"

    yield line(armin="export/1", database="d", epoch="e", position=0)
    yield line(session={"id": 1, "closed": False, "created_at": 1, "seq": 20 * count})
    for seq in range(1, 20 * count + 1):
        text = f"number {seq} " + "x" * 200
        yield line(message={"id": seq, "seq": seq, "role": "user", "content": text, "created_at": 1})
    yield line(end={"sessions": 1, "messages": 20 * count})


@pytest.mark.parametrize("make", [array, lines, members, one_long_session])
def test_memory_does_not_grow_with_the_file(make: Callable[[int], Iterator[bytes]]) -> None:
    source = ByteSource(Made(make(2_000)))  # about 10 MB
    messages = 0
    tracemalloc.start()
    try:
        for item in read_conversations(source, detect(source)):
            assert isinstance(item, Conversation)
            messages += sum(1 for _ in item.messages)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert messages == 40_000
    assert source.offset > 8_000_000
    assert peak < 2_000_000
