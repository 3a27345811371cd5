"""A file as a sequence of conversations, whatever its format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from armin.importers import chitchat, openai, sharegpt
from armin.importers.byte_source import ByteSource
from armin.importers.conversation import Conversation, Rejected
from armin.importers.detect import READERS, Layout
from armin.importers.export_format import ARMIN
from armin.importers.export_reader import ExportReader
from armin.importers.json_text import Value
from armin.importers.outcome import Problem, ProblemKind

_CONVERTERS: Final[dict[str, Callable[[Value, str | None], Conversation]]] = {
    openai.OPENAI: openai.conversation,
    sharegpt.SHAREGPT: sharegpt.conversation,
    chitchat.CHITCHAT: chitchat.conversation,
}


def read_conversations(
    source: ByteSource, layout: Layout, file: str | None = None
) -> Iterator[Conversation | Problem]:
    """Every conversation as it comes, and a problem for each that could not be read.

    `file` is a name to remember the file by, kept under meta.source.
    """
    if layout.format == ARMIN:
        yield from ExportReader(source).conversations()
        return
    for found in READERS[layout.container](source):
        yield found if isinstance(found, Problem) else _convert(layout.format, found, file)


def _convert(format_name: str, found: Value, file: str | None) -> Conversation | Problem:
    try:
        return _CONVERTERS[format_name](found, file)
    except Rejected as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deeply"
    return Problem(ProblemKind.REJECTED, f"{found.place} was left out: {why}", index=found.index)
