"""Reading values out of a byte stream: lines, arrays, objects, and what a cut or garbage leaves of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armin.importers import json_lines, json_text, json_values
from armin.importers.byte_source import ByteSource
from armin.importers.json_text import BadText, Decoder, Value
from armin.importers.outcome import Problem, ProblemKind

Read = Callable[[ByteSource], Iterator[Value | Problem]]

TRICKY = (
    '{"a": true, "b": [false, null, NaN, -Infinity, Infinity, -1.5e+10, 1E5, 0.25],'
    ' "c": "x\\ud83d\\ude00\\n\\\\ \\" é 😀 \\u12ab", "d": {}, "e": [ ] , "f" : [ 1 , 2 ] }'
)


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time and cannot be rewound."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = data
        self._step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece, self._data = self._data[: self._step], self._data[self._step :]
        return piece


def read(how: Read, data: bytes, step: int = 1 << 20) -> tuple[list[Any], list[Problem]]:
    items = list(how(ByteSource(Trickle(data, step))))
    values = [item.value for item in items if isinstance(item, Value)]
    return values, [item for item in items if isinstance(item, Problem)]


@pytest.mark.parametrize("end", range(len(TRICKY)))
def test_every_beginning_of_a_value_may_go_on(end: int) -> None:
    with pytest.raises(BadText) as caught:
        Decoder().decode(TRICKY[:end])
    assert caught.value.kind is ProblemKind.CUT_OFF


@pytest.mark.parametrize(
    "text", ['{"a": tru3', '{"a" 1', '{"a": 1 "b"', "{a", '["\\x', '["\n', "[1,]", "nulL", '{"a": 1.}', "}"]
)
def test_garbage_cannot_go_on(text: str) -> None:
    with pytest.raises(BadText) as caught:
        Decoder().decode(text)
    assert caught.value.kind is ProblemKind.BROKEN


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_array_items_come_whole_however_the_bytes_arrive(step: int) -> None:
    items = [json.loads(TRICKY), {"é": "😀" * 5}, 12, -1.5, "", [], {}, None, 10**30]
    data = json.dumps(items, ensure_ascii=False, indent=1).encode()
    values, problems = read(json_values.read_array, data, step)
    assert json.dumps(values) == json.dumps(items)
    assert not problems


@pytest.mark.parametrize("data", [b"[]", b" [ ] \n", b"[\n]"])
def test_empty_array_has_no_items(data: bytes) -> None:
    assert read(json_values.read_array, data) == ([], [])


def test_object_members_keep_their_keys() -> None:
    found = list(json_values.read_object(ByteSource(io.BytesIO(b'{"a": 1, "b\\u00e9" :[2]}'))))
    assert [(item.key, item.value) for item in found if isinstance(item, Value)] == [("a", 1), ("bé", [2])]


def test_lone_surrogates_nan_and_long_integers_survive() -> None:
    values, _ = read(
        json_values.read_array, b'[{"s": "\\ud83d", "n": NaN, "i": 123456789012345678901234567890}]'
    )
    assert values[0]["s"] == "\ud83d"
    assert values[0]["n"] != values[0]["n"]
    assert values[0]["i"] == 123456789012345678901234567890


ARRAY = [{"n": 1, "t": "é😀"}, {"n": 22.5, "t": 'a"\\'}, {"n": [None, True], "t": ""}]


@pytest.mark.parametrize("step", [1, 1000])
def test_array_cut_anywhere_gives_the_items_before_the_cut(step: int) -> None:
    data = json.dumps(ARRAY, ensure_ascii=False).encode()
    ends = [len(json.dumps(ARRAY[:count], ensure_ascii=False).encode()) - 1 for count in range(4)]
    for cut in range(len(data)):
        values, problems = read(json_values.read_array, data[:cut], step)
        whole = max([count for count in range(4) if ends[count] <= cut], default=0) if cut else 0
        assert values == ARRAY[:whole], cut
        assert [problem.kind for problem in problems] == [ProblemKind.CUT_OFF], cut
        valid = len(data[:cut].decode("utf-8", "ignore").encode())
        assert problems[0].offset == valid, cut


def test_cut_names_the_place_of_the_break() -> None:
    data = b'[\n {"a": 1},\n {"a": 2},\n {"a": '
    _, [problem] = read(json_values.read_array, data)
    assert (problem.index, problem.line, problem.offset) == (3, 4, len(data))
    assert "byte 31" in str(problem)
    assert "begins at byte 25" in str(problem)


def test_array_broken_in_the_middle_stops_there_and_is_not_called_cut() -> None:
    values, [problem] = read(json_values.read_array, b'[{"a": 1}, {"a": 2} {"a": 3}, {"a": 4}]')
    assert values == [{"a": 1}, {"a": 2}]
    assert (problem.kind, problem.offset) == (ProblemKind.BROKEN, 20)


@pytest.mark.parametrize("tail", [b"]", b", 1", b"x", b'{"a": 1}'])
def test_something_behind_the_array_is_told(tail: bytes) -> None:
    values, [problem] = read(json_values.read_array, b"[1]\n" + tail)
    assert values == [1]
    assert (problem.kind, problem.line) == (ProblemKind.BROKEN, 2)


def test_invalid_utf8_in_an_array_is_broken_at_its_byte() -> None:
    values, [problem] = read(json_values.read_array, b'["ok", "a\xffb", "later"]', 5)
    assert values == ["ok"]
    assert (problem.kind, problem.offset) == (ProblemKind.BROKEN, 9)


def test_value_over_the_limit_is_broken_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "VALUE_BYTES_MAX", 1000)
    values, [problem] = read(json_values.read_array, b'["ok", "' + b"x" * 5000, 100)
    assert values == ["ok"]
    assert problem.kind is ProblemKind.BROKEN


def test_endless_integer_is_left_out_and_the_next_item_read() -> None:
    for how, data in (
        (json_values.read_array, b"[1, %b, 3]" % (b"9" * 5000)),
        (json_lines.read_lines, b"1\n%b\n3\n" % (b"9" * 5000)),
    ):
        values, [problem] = read(how, data)
        assert values == [1, 3]
        assert (problem.kind, problem.index) == (ProblemKind.REJECTED, 2)


def test_very_deep_nesting_is_a_problem_not_a_crash() -> None:
    values, [problem] = read(json_lines.read_lines, b"[" * 100_000 + b"\n1\n")
    assert values == [1]
    assert problem.index == 1


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_lines_with_blanks_and_crlf(step: int) -> None:
    values, problems = read(json_lines.read_lines, b'{"a": 1}\r\n\r\n  \n{"a": 2}\n[3]', step)
    assert values == [{"a": 1}, {"a": 2}, [3]]
    assert not problems


def test_line_numbers_count_blank_lines() -> None:
    found = list(json_lines.read_lines(ByteSource(io.BytesIO(b"\n1\n\n2\n"))))
    assert [item.index for item in found] == [2, 4]


def test_complete_last_line_without_newline_is_whole() -> None:
    assert read(json_lines.read_lines, b'{"a": 1}\n{"a": 2}') == ([{"a": 1}, {"a": 2}], [])


def test_lines_cut_anywhere_give_the_lines_before_the_cut() -> None:
    lines = [json.dumps(item, ensure_ascii=False).encode() for item in ARRAY]
    data = b"\n".join(lines)
    for cut in range(len(data) + 1):
        whole = sum(len(b"\n".join(lines[: count + 1])) <= cut for count in range(3))
        between = cut in (
            0,
            *(len(b"\n".join(lines[:count])) + extra for count in (1, 2) for extra in (0, 1)),
        )
        values, problems = read(json_lines.read_lines, data[:cut], 50)
        assert values == ARRAY[:whole], cut
        expected = [] if between or cut == len(data) else [ProblemKind.CUT_OFF]
        assert [problem.kind for problem in problems] == expected, cut
        assert [problem.offset for problem in problems] == [cut for _ in expected]


@pytest.mark.parametrize("bad", [b"garbage", b'{"a": ', b'{"a": 1} {"b": 2}', b"\x00\x00", b'{"a": "\xff"}'])
def test_bad_line_in_the_middle_is_named_and_the_rest_read(bad: bytes) -> None:
    values, [problem] = read(json_lines.read_lines, b'{"a": 1}\n' + bad + b'\n{"a": 3}\n', 4)
    assert values == [{"a": 1}, {"a": 3}]
    assert (problem.kind, problem.index, problem.line) == (ProblemKind.BROKEN, 2, 2)


def test_bad_last_line_that_no_cut_explains_is_broken() -> None:
    _, [problem] = read(json_lines.read_lines, b'{"a": 1}\ngarbage')
    assert problem.kind is ProblemKind.BROKEN


def test_invalid_utf8_in_a_line_names_byte_and_line() -> None:
    _, [problem] = read(json_lines.read_lines, b'{"a": 1}\n{"a": "x\xffy"}\n')
    assert (problem.line, problem.offset) == (2, 17)
    assert "UTF-8" in str(problem)


def test_line_over_the_limit_is_skipped_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "VALUE_BYTES_MAX", 1000)
    values, [problem] = read(json_lines.read_lines, b'1\n"' + b"x" * 5000 + b'"\n3\n', 100)
    assert values == [1, 3]
    assert (problem.kind, problem.index) == (ProblemKind.BROKEN, 2)


@pytest.mark.parametrize("how", [json_lines.read_lines, json_values.read_array])
def test_long_value_in_small_pieces_is_not_joined_anew_for_each(
    how: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes: list[int] = []
    take = ByteSource.take

    def counted(self: ByteSource, pending: int) -> bytes:
        takes.append(pending)
        return take(self, pending)

    monkeypatch.setattr(ByteSource, "take", counted)
    text = "x" * 9_000_000
    values, problems = read(how, json.dumps([text]).encode(), 4096)
    assert values in ([text], [[text]])
    assert not problems
    assert len(takes) < 100  # of 2,200 pieces


def test_byte_order_mark_counts_as_bytes_of_the_file() -> None:
    source = ByteSource(io.BytesIO(b'\xef\xbb\xbf{"a": 1}\n{"b'))
    source.look()
    source.skip_bom()
    value, problem = json_lines.read_lines(source)
    assert isinstance(value, Value)
    assert isinstance(problem, Problem)
    assert problem.offset == 3 + 9 + 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 50), st.booleans())
def test_any_array_is_read_as_the_standard_library_reads_it(
    items: list[Any], step: int, pretty: bool
) -> None:
    data = json.dumps(items, indent=1 if pretty else None).encode()
    values, problems = read(json_values.read_array, data, step)
    assert not problems
    assert json.dumps(values) == json.dumps(json.loads(data))


@given(st.lists(JSON, max_size=6), st.data())
def test_any_array_cut_anywhere_gives_a_beginning_of_it(items: list[Any], data: st.DataObject) -> None:
    text = json.dumps(items).encode()
    cut = data.draw(st.integers(0, len(text) - 1))
    values, problems = read(json_values.read_array, text[:cut])
    assert json.dumps(values) == json.dumps(json.loads(text)[: len(values)])
    assert [problem.kind for problem in problems] == [ProblemKind.CUT_OFF]


def test_space_is_what_json_calls_space() -> None:
    assert json_text.skip_space(" \t\r\n\u00a0", 0) == 4
