"""JSON Lines: one value a line. A line that holds none is named, and the next one is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from armin.importers.byte_source import ByteSource
from armin.importers.json_text import VALUE_BYTES_MAX, BadText, Decoder, Unspeakable, Value
from armin.importers.outcome import Problem, ProblemKind


class Line(NamedTuple):
    """A line without its end. `whole`: a newline ended it, not the end of the file.

    `offset` is where it begins, in bytes. A line over VALUE_BYTES_MAX has `data` None.
    """

    number: int
    offset: int
    data: bytes | None
    whole: bool


def read_lines(source: ByteSource) -> Iterator[Value | Problem]:
    """The value of each line that is not blank, or why there is none."""
    decoder = Decoder()
    for line in split_lines(source):
        if line.data is None:
            yield left_out(ProblemKind.BROKEN, line, f"it is longer than {VALUE_BYTES_MAX} bytes")
        elif line.data.strip():
            yield _read_line(decoder, line, line.data)


def _read_line(decoder: Decoder, line: Line, data: bytes) -> Value | Problem:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        cut = not line.whole and error.end == len(data) and error.reason == "unexpected end of data"
        return _fault(line, cut, "it is not valid UTF-8", error.start)
    try:
        return Value(line.number, f"line {line.number}", None, decoder.decode_whole(text))
    except BadText as error:
        cut = not line.whole and error.kind is ProblemKind.CUT_OFF
        return _fault(line, cut, f"it is not JSON: {error.why}", len(text[: error.pos].encode()))
    except Unspeakable as error:
        return left_out(ProblemKind.REJECTED, line, error.why)


def _fault(line: Line, cut: bool, why: str, behind: int) -> Problem:
    """A fault `behind` bytes from the beginning of the line, or at the end of the file if it was cut."""
    if not cut:
        return left_out(ProblemKind.BROKEN, line, why, behind)
    end = line.offset + len(line.data or b"")
    return Problem(
        ProblemKind.CUT_OFF,
        f"the file is cut off at byte {end}, in line {line.number}, which begins at byte {line.offset}",
        index=line.number,
        line=line.number,
        offset=end,
    )


def left_out(kind: ProblemKind, line: Line, why: str, behind: int = 0) -> Problem:
    """A line that was left out, and the place in it, in bytes, that shows why."""
    offset = line.offset + behind
    message = f"line {line.number} was left out: {why} (byte {offset})"
    return Problem(kind, message, index=line.number, line=line.number, offset=offset)


def split_lines(source: ByteSource) -> Iterator[Line]:
    """Every line, blank ones included. A file that ends with a newline has no empty line behind it."""
    number, start, pending, endless = 1, source.offset, b"", False
    while chunk := source.take(len(pending)):
        behind = source.offset - len(chunk)
        *pieces, rest = chunk.split(b"\n")
        for piece in pieces:
            yield _line(number, start, pending + piece, endless, True)
            behind += len(piece) + 1
            number, start, pending, endless = number + 1, behind, b"", False
        pending += rest
        if len(pending) > VALUE_BYTES_MAX:
            pending, endless = b"", True
    if pending or endless:
        yield _line(number, start, pending, endless, False)


def _line(number: int, start: int, data: bytes, endless: bool, whole: bool) -> Line:
    return Line(number, start, None if endless or len(data) > VALUE_BYTES_MAX else data, whole)
