"""The values of one large JSON array or object, or a document's only value, without holding all of them."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from armin.importers.byte_source import ByteSource
from armin.importers.json_text import (
    VALUE_BYTES_MAX,
    BadText,
    Decoder,
    Unspeakable,
    Value,
    skip_space,
)
from armin.importers.outcome import Problem, ProblemKind

_CLOSED: Final = '}]"'  # a value that ends so ends here; a number may go on
_BEHIND: Final = " \t\r\n,]}"  # what shows that a number has ended
_MORE_OF_A_NUMBER: Final = 3  # characters that show at the latest whether it goes on: "e+1"


def read_array(source: ByteSource) -> Iterator[Value | Problem]:
    """The items of the array that is the whole file, up to the first fault."""
    return _read(source, lambda window: _items(window, "[", "]", keyed=False))


def read_object(source: ByteSource) -> Iterator[Value | Problem]:
    """The members of the object that is the whole file, up to the first fault."""
    return _read(source, lambda window: _items(window, "{", "}", keyed=True))


def read_document(source: ByteSource) -> Iterator[Value | Problem]:
    """The one value that is the whole file."""
    return _read(source, _only_value)


def _read(
    source: ByteSource, values: Callable[[_Window], Iterator[Value | Problem]]
) -> Iterator[Value | Problem]:
    window = _Window(source)
    try:
        yield from values(window)
        if window.peek():
            window.fail(ProblemKind.BROKEN, "something follows the end of the data")
    except BadText as error:
        yield window.problem(error)


def _items(window: _Window, opening: str, closing: str, keyed: bool) -> Iterator[Value | Problem]:
    window.expect(opening)
    if window.peek() == closing:
        window.expect(closing)
        return
    while True:
        window.begin_item()
        key = window.key() if keyed else None
        yield window.item(key)
        if window.peek() == closing:
            window.expect(closing)
            return
        window.expect(",")


def _only_value(window: _Window) -> Iterator[Value | Problem]:
    window.begin_item()
    yield window.item(None)


class _Window:
    """The part of the text that is being decoded; it grows as needed and forgets what is done with.

    Every method raises BadText where the file ends or does not hold what it should.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._decoder = Decoder()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._pos = 0
        self._counted = 0  # index in the text up to which the next two have counted
        self._offset = source.offset  # bytes
        self._lines = 0  # newlines
        self._end: BadText | None = None  # why the text cannot grow any more
        self._index = 0  # of the item being read, from 1
        self._begin = 0  # where it begins, in bytes
        self._inside = False  # it has begun and not ended

    def begin_item(self) -> None:
        """The next item begins behind the white space here."""
        self.peek()
        self._index += 1
        self._count()
        self._begin = self._offset
        self._inside = True

    def peek(self) -> str:
        """The next character that is not white space; empty at a proper end of the file."""
        while True:
            self._pos = skip_space(self._text, self._pos)
            if self._pos < len(self._text):
                return self._text[self._pos]
            if not self._grow():
                if self._end is not None and self._end.kind is ProblemKind.BROKEN:
                    raise self._end
                return ""

    def expect(self, character: str) -> None:
        """Step over this character."""
        found = self.peek()
        if not found:
            self.fail(ProblemKind.CUT_OFF, "")
        if found != character:
            self.fail(ProblemKind.BROKEN, f"{character!r} expected, {found!r} found")
        self._pos += 1

    def key(self) -> str:
        """A member's key and the colon behind it."""
        if self.peek() not in ('"', ""):
            self.fail(ProblemKind.BROKEN, "a key in quotes expected")
        key = self._decode()
        self.expect(":")
        return str(key)

    def item(self, key: str | None) -> Value | Problem:
        """The value that begins here."""
        self.peek()
        value = self._decode()
        self._inside = False
        if not isinstance(value, Unspeakable):
            return Value(self._index, f"item {self._index}", key, value)
        why = f"item {self._index} was left out: {value} (it begins at byte {self._begin})"
        return Problem(ProblemKind.REJECTED, why, index=self._index, offset=self._begin)

    def _decode(self) -> Any | Unspeakable:
        while True:
            try:
                value, end = self._decoder.decode(self._text, self._pos)
            except Unspeakable as error:
                value, end = error, error.end
            except BadText as error:
                if error.kind is ProblemKind.BROKEN:
                    raise
                if not self._grow():
                    raise self._end or error from None
                continue
            if self._shows_end(end):
                self._pos = end
                return value
            if self._end is not None:
                raise self._end
            self._grow()

    def _shows_end(self, end: int) -> bool:
        """Whether the value that was found to end here cannot be a piece of a longer one."""
        behind = self._text[end : end + _MORE_OF_A_NUMBER]
        return (
            self._text[end - 1] in _CLOSED
            or len(behind) == _MORE_OF_A_NUMBER
            or (behind != "" and behind[0] in _BEHIND)
        )

    def _grow(self) -> bool:
        """Take more text in, forgetting what lies before the present place; False if there is no more."""
        if self._end is not None:
            return False
        left = len(self._text) - self._pos
        if left > VALUE_BYTES_MAX:
            self.fail(ProblemKind.BROKEN, f"it is longer than {VALUE_BYTES_MAX} bytes")
        self._forget()
        chunk = self._source.take(left)
        try:
            self._text += self._utf8.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            self._text += error.object[: error.start].decode()
            kind = ProblemKind.BROKEN if chunk else ProblemKind.CUT_OFF
            self._end = BadText(kind, "it is not valid UTF-8", len(self._text))
            return error.start > 0
        if not chunk:
            self._end = BadText(ProblemKind.CUT_OFF, "", len(self._text))
        return bool(chunk)

    def _forget(self) -> None:
        self._count()
        self._text = self._text[self._pos :]
        self._pos = self._counted = 0

    def _count(self) -> None:
        done = self._text[self._counted : self._pos]
        self._offset += len(done.encode())
        self._lines += done.count("\n")
        self._counted = self._pos

    def fail(self, kind: ProblemKind, why: str) -> NoReturn:
        """Say that reading ends at the present place."""
        raise BadText(kind, why, self._pos)

    def problem(self, error: BadText) -> Problem:
        """The fault as the caller sees it."""
        cut = error.kind is ProblemKind.CUT_OFF
        pos = len(self._text) if cut else error.pos
        behind = self._text[self._counted : pos]
        offset, line = self._offset + len(behind.encode()), self._lines + behind.count("\n") + 1
        where = f"at byte {offset} (line {line})"
        item = f"in item {self._index}, which begins at byte {self._begin}"
        item = item if self._inside else f"behind item {self._index}" if self._index else "before any item"
        message = (
            f"the file is cut off {where}, {item}"
            if cut
            else f"the file is broken {where}, {item}: {error.why}; nothing behind it was read"
        )
        return Problem(error.kind, message, index=self._index or None, line=line, offset=offset)
