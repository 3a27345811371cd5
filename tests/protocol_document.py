"""docs/protocol.md as data: its sections, its tables, and the examples that are bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "protocol.md"

_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_EXCHANGE: Final = re.compile(r"^```exchange\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text() -> str:
    """All of it."""
    return DOCUMENT.read_text("utf-8")


def headings() -> list[str]:
    """Every heading, in order, without its marks."""
    return re.findall(r"^#+ (.*)$", _FENCED.sub("", text()), re.MULTILINE)


def section(heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.split(rf"^#+ {re.escape(heading)}\n", text(), maxsplit=1, flags=re.MULTILINE)
    assert len(found) == 2, f"there is no heading {heading!r}"
    return re.split(r"^#+ ", found[1], maxsplit=1, flags=re.MULTILINE)[0]


@dataclass(frozen=True)
class Table:
    """A table: the cells of its head, and of its rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, number: int = 0) -> list[str]:
        """One column, without backticks."""
        return [row[number].strip("`") for row in self.rows]


def tables(heading: str) -> list[Table]:
    """The tables of a section."""
    blocks = re.findall(r"(?:^\|.*\n)+", section(heading), re.MULTILINE)
    return [_table(block.splitlines()) for block in blocks]


def _table(lines: list[str]) -> Table:
    head, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    assert all(len(row) == len(head) for row in rows), lines[0]
    return Table(tuple(head), tuple(map(tuple, rows)))


def table(heading: str, first: str) -> Table:
    """The one table of a section whose head begins with `first`."""
    (found,) = (each for each in tables(heading) if each.head[0] == first)
    return found


def names(cell: str) -> tuple[str, ...]:
    """The names within one pair of backticks; empty for an empty cell."""
    return tuple(cell.strip("`").split(", ")) if cell else ()


# --- examples -------------------------------------------------------------------------------------

LIVE: Final = "live"
SENT: Final = "->"
CAME: Final = "<-"


@dataclass(frozen=True)
class Example:
    """One message of the examples: which way it goes, its frames as bytes, and the map of its last one.

    An excerpt has no frames.
    """

    way: str
    frames: tuple[bytes, ...]
    shown: dict[str, Any]

    @property
    def is_excerpt(self) -> bool:
        """Whether there is more in the message than is shown."""
        return not self.frames


_FRAME: Final = re.compile(r"(->|<-|live) [a-z, ]+\n")
_WIDTH: Final = 24  # bytes on a line
_COLUMNS: Final = 116  # of JSON


def examples() -> list[Example]:
    """The examples in bytes, in the order of the document."""
    found: list[Example] = []
    for block in _EXCHANGE.finditer(section("Examples in bytes")):
        frames: list[bytes] = []
        _, *parts = _FRAME.split(block[1])
        for way, body in zip(parts[::2], parts[1::2], strict=True):
            packed, brace, rest = body.partition("\n{") if not body.startswith("{") else ("", "{", body[1:])
            if packed:
                frames.append(bytes.fromhex("".join(line.partition("|")[0] for line in packed.splitlines())))
            if brace:
                found.append(Example(way, tuple(frames), json.loads(brace.strip() + rest)))
                frames = []
        assert not frames, block[0]
    return found


def shown_message(titles: Sequence[str], frames: Sequence[bytes], shown: Mapping[str, Any]) -> str:
    """A message as the document has it."""
    parts = [f"{title}\n{_shown_bytes(frame)}" for title, frame in zip(titles, frames, strict=True)]
    return "".join(parts) + shown_json(shown)


def _shown_bytes(frame: bytes) -> str:
    lines: list[str] = []
    for start in range(0, len(frame), _WIDTH):
        row = frame[start : start + _WIDTH]
        readable = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != ord("|") else "." for byte in row)
        lines.append(f"{row.hex(' '):{3 * _WIDTH - 1}} |{readable}|\n")
    return "".join(lines)


def shown_json(shown: Mapping[str, Any]) -> str:
    """JSON in lines of a bearable length, broken where a value ends."""
    pieces = re.split(r"(?<=[\]}\d\"el]), (?=[\[{\"\d-])", json.dumps(shown, ensure_ascii=False))
    lines = [""]
    for number, piece in enumerate(pieces):
        text_ = piece if number == len(pieces) - 1 else piece + ","
        if lines[-1] and len(lines[-1]) + 1 + len(text_) > _COLUMNS:
            lines.append(" " + text_)
        else:
            lines[-1] += f" {text_}" if lines[-1] else text_
    return "\n".join(lines) + "\n"
