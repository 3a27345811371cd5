"""What an import or an export tells: how far it is, how it ended, and what went wrong where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PROBLEMS_KEPT_MAX: Final = 1000  # problems kept in a result; those beyond are counted only


class UnknownFormat(ValueError):
    """The content is of no format that can be imported, or a format was named that does not exist."""


class ProblemKind(StrEnum):
    """What kept a part of the file from being imported, the gravest first."""

    CUT_OFF = "cut_off"  # the file ends in the middle; a later import of the whole file adds the rest
    BROKEN = "broken"  # something in the file is not what its format says; it was left out
    REJECTED = "rejected"  # a conversation that Armin cannot hold or does not understand
    CONFLICT = "conflict"  # its session holds other messages, or is closed; nothing was overwritten


class Outcome(StrEnum):
    """How an import ended: COMPLETE, or the gravest kind of its problems."""

    COMPLETE = "complete"
    CUT_OFF = "cut_off"
    BROKEN = "broken"
    REJECTED = "rejected"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was not imported, and why.

    `index` is the conversation's 1-based place in the file: its line in JSON Lines, its item in an array
    or object, None where it has none. `line` (1-based) and `offset` (bytes from the file's beginning)
    say where reading failed. `session` is the name, `session_id` and `seq` the message of a conflict.
    """

    kind: ProblemKind
    message: str
    index: int | None = None
    line: int | None = None
    offset: int | None = None
    session: str | None = None
    session_id: int | None = None
    seq: int | None = None

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is. `bytes_total` is None where the size is not known, as on a pipe.

    `conversations` and `messages` were dealt with so far, those already present included.
    """

    bytes_read: int
    bytes_total: int | None
    conversations: int
    messages: int


@dataclass(frozen=True, slots=True)
class ImportResult:
    """How an import ended.

    `format` is empty for an empty file whose format was not named. Of the `conversations` found whole,
    `created` are new sessions, `continued` had a part of their messages before, `present` had all;
    the rest had a problem. `messages_added` were appended now, `messages_present` were there before.
    `problems` holds the first PROBLEMS_KEPT_MAX, `problem_counts` counts all of them by kind.
    """

    format: str
    conversations: int
    created: int
    continued: int
    present: int
    messages_added: int
    messages_present: int
    bytes_read: int
    problems: tuple[Problem, ...]
    problem_counts: Mapping[ProblemKind, int]

    @property
    def outcome(self) -> Outcome:
        """COMPLETE, or the gravest kind of its problems."""
        for kind in ProblemKind:
            if self.problem_counts.get(kind):
                return Outcome(kind.value)
        return Outcome.COMPLETE


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far an export is. `last_id` is the id of the session just written."""

    sessions: int
    messages: int
    bytes_written: int
    last_id: int


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written. `position` is the engine's last committed position when the export began."""

    format: str
    sessions: int
    messages: int
    bytes_written: int
    position: int
