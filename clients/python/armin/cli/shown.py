"""Untrusted text for human eyes: nothing in a message may steer the terminal that shows it."""

from __future__ import annotations

import re
from typing import Final

# C0 but tab and newline, DEL, C1, the line and paragraph separators, what reverses the rest of a line
# (bidirectional embeddings, overrides and isolates), and halves of surrogate pairs.
_STEERING: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE: Final = re.compile(f"[{_STEERING}]")
_UNSAFE_IN_LINE: Final = re.compile(f"[\t\n{_STEERING}]")
# json.dumps escapes C0 itself; the rest of these would be legal JSON, but neither safe on a terminal
# nor one line for everybody who splits lines.
_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def text(value: str) -> str:
    """The text with control characters written out, as `\\x1b`. Lines and tabs stay."""
    return _UNSAFE.sub(_escape, value)


def line(value: str) -> str:
    """The text as one line: newlines and tabs are written out too."""
    return _UNSAFE_IN_LINE.sub(_escape, value)


def json_safe(encoded: str) -> str:
    """JSON text in which the same characters stand as `\\u` escapes: the same value, harmless to show."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
