"""Which format a file is of, told from its beginning."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

import ijson

from armin.importers import chitchat, export_format, openai, sharegpt
from armin.importers.byte_source import ByteSource
from armin.importers.json_lines import read_lines
from armin.importers.json_text import BadText, Decoder, Unspeakable, Value
from armin.importers.json_values import read_array, read_document, read_object
from armin.importers.outcome import Problem, ProblemKind, UnknownFormat

HEAD_BYTES_MAX: Final = 1 << 20  # of the file looked at before giving up
_LINES_TRIED_MAX: Final = 20  # lines looked at, should the first ones be damaged

FORMATS: Final = (
    openai.OPENAI,  # JSON Lines or an array of {"messages": [{"role", "content"}, ...]}
    sharegpt.SHAREGPT,  # an array or JSON Lines of {"conversations": [{"from", "value"}, ...]}
    export_format.ARMIN,  # JSON Lines that begin with {"armin": "export/1"}
    chitchat.CHITCHAT,  # one object {ID: {"messages": [[{"text", "sender"}, ...]]}}
)
_KNOWN: Final = ", ".join(FORMATS)


class Container(Enum):
    """How conversations are put one behind the other."""

    LINES = auto()
    ARRAY = auto()
    OBJECT = auto()
    DOCUMENT = auto()  # one conversation, over several lines


class Layout(NamedTuple):
    """What a file holds. `format` is empty if it holds no conversation."""

    format: str
    container: Container


READERS: Final[dict[Container, Callable[[ByteSource], Iterator[Value | Problem]]]] = {
    Container.LINES: read_lines,
    Container.ARRAY: read_array,
    Container.OBJECT: read_object,
    Container.DOCUMENT: read_document,
}


def detect(source: ByteSource, named: str | None = None) -> Layout:
    """Look at the beginning until it shows the format; `named` is taken for granted where given.

    Raises:
        UnknownFormat: it shows none of FORMATS, or `named` is none of them.
    """
    if named is not None and named not in FORMATS:
        raise UnknownFormat(f"there is no format {named!r}; known are {_KNOWN}")
    looked_at, last = 0, False
    while not last:
        ended = not source.look()
        last = ended or len(source.head) >= HEAD_BYTES_MAX
        if ended and not source.head.removeprefix(codecs.BOM_UTF8).strip():
            source.skip_bom()
            return Layout(named or "", Container.LINES)
        if last or len(source.head) >= 2 * looked_at:  # doubling: what was looked at is looked at again
            looked_at = len(source.head)
            layout = _layout(source.head.removeprefix(codecs.BOM_UTF8), last, named)
            if layout is not None:
                source.skip_bom()
                return layout
    raise UnknownFormat(f"it is of no known format; known are {_KNOWN}")


def _layout(head: bytes, last: bool, named: str | None) -> Layout | None:
    """What the head shows; None if more of the file must be seen, of which `last` says there is none."""
    _refuse_other_encodings(head)
    text = head.lstrip()
    if not text:
        return None
    if text.startswith(b"["):
        found = named or recognise(text)
        empty = found is None and last and b"".join(text.split()) == b"[]"
        return Layout(found or "", Container.ARRAY) if found or empty else None
    lines = [line for line in text.split(b"\n", _LINES_TRIED_MAX)[:_LINES_TRIED_MAX] if line.strip()]
    found = named or next(filter(None, map(recognise, lines)), None) or recognise(text)
    if found is None:
        return None
    if found in (chitchat.CHITCHAT, export_format.ARMIN):
        return Layout(found, Container.OBJECT if found == chitchat.CHITCHAT else Container.LINES)
    document = _spans_lines(text, lines)
    if document is None and not last:
        return None
    return Layout(found, Container.DOCUMENT if document else Container.LINES)


def _spans_lines(text: bytes, lines: list[bytes]) -> bool | None:
    """Whether the first value goes on behind its line; None if that cannot be told yet.

    It does not where the first line is a whole value, or where it is damaged and the second is one.
    """
    if b"\n" not in text:
        return None
    try:
        Decoder().decode_whole(lines[0].decode())
    except BadText as error:
        if error.kind is not ProblemKind.CUT_OFF:
            return False
    except (Unspeakable, UnicodeDecodeError):
        return False
    else:
        return False
    if len(lines) < 2:
        return None
    return recognise(lines[1]) is None


def _refuse_other_encodings(head: bytes) -> None:
    if head.startswith(b"\x1f\x8b"):
        raise UnknownFormat("this is gzip; unpack it first, for example: gunzip -c FILE | armin import -")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head[:2]:
        raise UnknownFormat(
            "this is not UTF-8 but UTF-16 or UTF-32; convert it first, for example with iconv"
        )


def recognise(fragment: bytes) -> str | None:
    """The format of a piece of JSON, from its first byte to wherever it ends; None if it shows none."""
    path: list[str] = []  # the key at which each open map is, `[` for an open array
    try:
        for event, value in ijson.basic_parse(io.BytesIO(fragment)):
            if event == "map_key":
                path[-1] = value
            elif event in ("end_map", "end_array"):
                path.pop()
            else:
                found = _signature(path, event)
                if found is not None:
                    return found
                if event in ("start_map", "start_array"):
                    path.append("[" if event == "start_array" else "")
    except (ijson.JSONError, ValueError):  # ValueError: from ijson's backend that needs no compiler
        pass  # the piece ends here, or is damaged: it has shown all that it can
    return None


def _signature(path: list[str], event: str) -> str | None:
    """The format that has a value of this kind at this place."""
    match path[1:] if path[:1] == ["["] else path:
        case ["messages"] if event == "start_array":
            return openai.OPENAI
        case ["conversations"] if event == "start_array":
            return sharegpt.SHAREGPT
    match path:
        case ["armin"] if event == "string":
            return export_format.ARMIN
        case [_, "messages", "["] if event == "start_array":
            return chitchat.CHITCHAT
    return None
