"""Decoding one JSON value, and telling text that is wrong from text that was merely cut.

The standard library's decoder keeps what streaming parsers lose: integers of any size, lone surrogates,
NaN. As everywhere in Python, the last of two equal keys wins.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any, Final

from armin.importers.outcome import ProblemKind

VALUE_BYTES_MAX: Final = 256 << 20  # one value; decoded, it takes several times that in memory

SPACE: Final = re.compile(r"[ \t\n\r]*")

_WORDS: Final = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
# What the decoder stumbles over where the text ends inside a word, a number or an escape.
_CUT_TOKENS: Final = frozenset(word[:end] for word in _WORDS for end in range(len(word))) | {
    *(".", "e", "E", "e+", "E+", "e-", "E-")
}
_CUT_ESCAPE: Final = re.compile(r"u[0-9a-fA-F]{0,4}")


@dataclass(frozen=True, slots=True)
class Value:
    """A decoded value: its 1-based `index` (line or item), its `place` in words, its `key` in an object."""

    index: int
    place: str
    key: str | None
    value: Any


class BadText(Exception):
    """Text that holds no whole JSON value: CUT_OFF if it may be the beginning of one, else BROKEN.

    `pos` is the index of the character in the text where it fails.
    """

    def __init__(self, kind: ProblemKind, why: str, pos: int) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why
        self.pos = pos


class Unspeakable(Exception):
    """A whole value that Python cannot hold; reading can go on behind it, at index `end` of the text."""

    def __init__(self, why: str, end: int) -> None:
        super().__init__(why)
        self.why = why
        self.end = end


class Decoder:
    """Decodes values out of a text; keeps no state between them."""

    def __init__(self) -> None:
        self._json = json.JSONDecoder(parse_int=self._parse_int)
        self._endless = False

    def _parse_int(self, digits: str) -> int:
        try:
            return int(digits)
        except ValueError:  # over 4,300 digits, unless the interpreter was told otherwise
            self._endless = True
            return 0

    def decode(self, text: str, pos: int = 0) -> tuple[Any, int]:
        """The value that begins at `pos`, and the index behind it.

        Raises:
            BadText: there is none, or not the whole of it.
            Unspeakable: it holds an integer of more digits than Python converts.
        """
        self._endless = False
        try:
            value, end = self._json.raw_decode(text, pos)
        except JSONDecodeError as error:
            kind = ProblemKind.CUT_OFF if _may_go_on(error) else ProblemKind.BROKEN
            raise BadText(kind, error.msg, error.pos) from None
        except RecursionError:
            raise BadText(ProblemKind.BROKEN, "it is nested too deeply", pos) from None
        if self._endless:
            raise Unspeakable("it holds an integer of thousands of digits", end)
        return value, end

    def decode_whole(self, text: str) -> Any:
        """The one value in `text`, white space around it allowed. Errors are those of `decode`."""
        value, end = self.decode(text, skip_space(text, 0))
        end = skip_space(text, end)
        if end != len(text):
            raise BadText(ProblemKind.BROKEN, "something follows the value", end)
        return value


def skip_space(text: str, pos: int) -> int:
    """The index of the first character at or behind `pos` that is not white space."""
    match = SPACE.match(text, pos)
    return pos if match is None else match.end()


def _may_go_on(error: JSONDecodeError) -> bool:
    rest = error.doc[error.pos : error.pos + 16]  # longer than any token that can be cut
    return (
        error.msg.startswith("Unterminated string")
        or rest in _CUT_TOKENS
        or _CUT_ESCAPE.fullmatch(rest) is not None
    )
