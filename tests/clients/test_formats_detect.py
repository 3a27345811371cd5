"""Telling a file's format from its beginning."""

from __future__ import annotations

import io
import json
from pathlib import Path

import ijson
import pytest

from armin.importers.byte_source import ByteSource
from armin.importers.detect import FORMATS, HEAD_BYTES_MAX, Container, detect, recognise
from armin.importers.outcome import UnknownFormat

TRANSCRIPTS = Path(__file__).parent / "transcripts"
MESSAGES = '"messages": [{"role": "user", "content": "hi"}]'
EXPORT = '{"armin": "export/1", "database": "d", "epoch": "e", "position": 0}\n'


def layout(data: bytes | str, named: str | None = None) -> tuple[str, Container]:
    found = detect(ByteSource(io.BytesIO(data.encode() if isinstance(data, str) else data)), named)
    return found.format, found.container


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (f"{{{MESSAGES}}}\n{{{MESSAGES}}}\n", ("openai", Container.LINES)),
        (f"{{{MESSAGES}}}", ("openai", Container.LINES)),
        (f'\n\n{{"id": 1, "tools": [{{"messages": 1}}], {MESSAGES}}}\n', ("openai", Container.LINES)),
        (f"[{{{MESSAGES}}}]", ("openai", Container.ARRAY)),
        ('[\n {"id": "a", "conversations": [{"from": "human"', ("sharegpt", Container.ARRAY)),
        ('{"conversations": []}\n', ("sharegpt", Container.LINES)),
        (EXPORT, ("armin", Container.LINES)),
        ('{"3f": {"ratings": {}, "messages": [[{"text": "x"}]]}}', ("chitchat", Container.OBJECT)),
        ('{"3f":\n {"messages":\n [[{"text": "x"}]]}}', ("chitchat", Container.OBJECT)),
        (f"\ufeff{{{MESSAGES}}}\n", ("openai", Container.LINES)),
        (f"{{{MESSAGES}}}\r\n\r\n", ("openai", Container.LINES)),
    ],
)
def test_format_is_recognised_by_content(data: str, expected: tuple[str, Container]) -> None:
    assert layout(data) == expected


@pytest.mark.parametrize("indent", [1, 4, "\t"])
def test_one_conversation_over_several_lines_is_a_document(indent: int | str) -> None:
    value = {"id": 3, "messages": [{"role": "user", "content": "hi"}]}
    assert layout(json.dumps(value, indent=indent)) == ("openai", Container.DOCUMENT)


def test_damaged_first_lines_do_not_hide_the_format() -> None:
    assert layout(f'{{"messages": [{{"role"\n{{{MESSAGES}}}\n') == ("openai", Container.LINES)
    assert layout(f"garbage\n{{{MESSAGES}}}\n") == ("openai", Container.LINES)


def test_file_cut_within_its_first_line_is_recognised() -> None:
    assert layout('{"messages": [{"role": "us') == ("openai", Container.LINES)


@pytest.mark.parametrize("data", ["", " \n\r\n", "\ufeff"])
def test_empty_file_is_of_no_format_and_no_error(data: str) -> None:
    assert layout(data) == ("", Container.LINES)
    assert layout(data, "openai") == ("openai", Container.LINES)


@pytest.mark.parametrize(
    "data",
    ["hello", '{"prompt": "a"}\n', "[1, 2]", '{"messages": "x"}', "[", "\0\1\2", '{"a": {"messages": [1]}}'],
)
def test_unknown_content_is_an_error_that_lists_the_known_formats(data: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        layout(data)
    assert all(name in str(caught.value) for name in FORMATS) or "UTF" in str(caught.value)


def test_unknown_name_is_an_error_that_lists_the_known_formats() -> None:
    with pytest.raises(UnknownFormat, match=r"openai(.|\n)*sharegpt(.|\n)*armin"):
        layout(f"{{{MESSAGES}}}", "csv")


def test_compressed_file_is_told_to_be_unpacked() -> None:
    with pytest.raises(UnknownFormat, match="gzip"):
        layout(b"\x1f\x8b\x08\x00")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(encoding: str) -> None:
    with pytest.raises(UnknownFormat, match="UTF-16"):
        layout(f"{{{MESSAGES}}}".encode(encoding))


def test_named_format_is_taken_where_the_content_does_not_show_it() -> None:
    assert layout('{"x": 1}\n{"x": 2}\n', "openai") == ("openai", Container.LINES)


def test_looking_stops_after_a_bounded_part() -> None:
    class Spaces(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            self.taken += size
            return b'"' * size

    stream = Spaces()
    with pytest.raises(UnknownFormat):
        detect(ByteSource(stream))
    assert stream.taken <= 2 * HEAD_BYTES_MAX


def test_pipe_that_gives_a_line_and_pauses_is_recognised_by_it() -> None:
    class Pausing(io.RawIOBase):
        """Gives one line; asking for more would wait for ever."""

        lines = iter([f"{{{MESSAGES}}}\n".encode()])

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return next(self.lines)

    assert detect(ByteSource(Pausing())).format == "openai"


@pytest.mark.parametrize("backend", ["python", ijson.backend])
@pytest.mark.parametrize("name", FORMATS)
def test_every_beginning_of_a_transcript_shows_its_format_or_none(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ijson, "basic_parse", ijson.get_backend(backend).basic_parse)
    [path] = TRANSCRIPTS.glob(f"{name}.*")
    data = path.read_bytes()[:600]
    found = [recognise(data[:end]) for end in range(len(data))]
    assert set(found) == {None, name}
    assert recognise(b'"' + data) is None
