"""Reading Armin's own export back; what becomes of it is said in export_format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from armin.importers.byte_source import ByteSource
from armin.importers.conversation import Conversation
from armin.importers.export_format import VERSION, origin_name, origin_of, with_origin
from armin.importers.fitting import fits, meta_fits, text_bytes
from armin.importers.json_lines import read_lines
from armin.importers.json_text import Value
from armin.importers.outcome import Problem, ProblemKind
from armin.results import NewMessage
from armin_broker.protocol import NAME_BYTES_MAX, ROLES

_HELD_MESSAGES_MAX: Final = 500
_HELD_CHARACTERS_MAX: Final = 1 << 20


class _Malformed(Exception):
    """A line that is not what it should be."""


class ExportReader:
    """Where the reading of an export stands."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._values = read_lines(source)
        self._waiting: Value | Problem | None = None  # read one too far: the next one
        self._problems: list[Problem] = []  # met among a session's messages, to be told behind it
        self._database = ""
        self._open = False  # between a first line and its last one
        self._damaged = False  # something was left out, so the counts cannot agree
        self._sessions = 0
        self._messages = 0
        self._line = 0

    def conversations(self) -> Iterator[Conversation | Problem]:
        """The sessions as they come, and what is wrong.

        The messages of a large session are read from the file while they are asked for, and skipped
        otherwise; those of a small one are a list.
        """
        while (item := self._next()) is not None:
            if isinstance(item, Problem):
                self._tell(item)
            else:
                yield from self._take(item)
            yield from self._problems
            self._problems.clear()
        if self._open:
            yield Problem(
                ProblemKind.CUT_OFF,
                f"the file is cut off at byte {self._source.offset}, behind line {self._line}:"
                " its last line, with the counts, is missing",
                line=self._line,
                offset=self._source.offset,
            )

    def _next(self) -> Value | Problem | None:
        item = self._waiting if self._waiting is not None else next(self._values, None)
        self._waiting = None
        if isinstance(item, Value):
            self._line = item.index
        return item

    def _tell(self, problem: Problem) -> None:
        self._problems.append(problem)
        self._damaged = True
        if problem.kind is ProblemKind.CUT_OFF:
            self._open = False  # said already

    def _tell_broken(self, index: int, why: str) -> None:
        self._tell(Problem(ProblemKind.BROKEN, f"line {index}: {why}", index=index, line=index))

    def _take(self, item: Value) -> Iterator[Conversation]:
        try:
            match item.value:
                case {"session": dict(fields)} if self._open:
                    conversation = self._session(item, fields)
                    yield conversation
                    for _ in conversation.messages:  # those that nobody wanted
                        pass
                case {"armin": str(version)}:
                    self._begin(version, item.value.get("database"))
                case {"end": {"sessions": int(sessions), "messages": int(messages)}} if self._open:
                    self._end(sessions, messages)
                case _:
                    raise _Malformed("it is not what an export has here")
        except _Malformed as error:
            self._tell_broken(item.index, f"{error}; it was left out, with messages that follow it directly")
            self._skip_messages()

    def _begin(self, version: str, database: object) -> None:
        if version != VERSION or not isinstance(database, str) or not 0 < (text_bytes(database) or 0) <= 128:
            raise _Malformed(f"only {VERSION} can be read, this is {version!r}")
        if self._open:
            self._tell_broken(self._line, "another export begins before the last line of the one before")
        self._database = database
        self._open, self._damaged, self._sessions, self._messages = True, False, 0, 0

    def _end(self, sessions: int, messages: int) -> None:
        self._open = False
        if not self._damaged and (sessions, messages) != (self._sessions, self._messages):
            self._tell_broken(
                self._line,
                f"the export had {sessions} sessions and {messages} messages,"
                f" the file has {self._sessions} and {self._messages}",
            )

    # --- a session --------------------------------------------------------------------------------

    def _session(self, item: Value, fields: dict[str, Any]) -> Conversation:
        match fields:
            case {
                "id": int(own_id),
                "closed": bool(closed),
                "created_at": int(created_at),
                "seq": int(count),
            }:
                pass
            case _:
                raise _Malformed("it is no session")
        name = fields.get("name", origin_name(self._database, own_id))
        meta = fields.get("meta")
        if not isinstance(name, str) or not 0 < (text_bytes(name) or 0) <= NAME_BYTES_MAX:
            raise _Malformed("the session's name is not what Armin takes")
        if meta is not None and not (isinstance(meta, dict) and meta_fits(meta)):
            raise _Malformed("the session's meta is not what Armin takes")
        self._sessions += 1
        origin = {"database": self._database, "id": own_id, "created_at": created_at}
        return Conversation(
            item.index,
            item.place,
            name,
            with_origin(meta, origin),
            _hold_if_small(self._read_messages(own_id, count)),
            count,
            closed,
            check_meta=True,
            origin=origin_of(name, created_at, meta),
        )

    def _read_messages(self, session_id: int, count: int) -> Iterator[NewMessage]:
        """The messages that follow, up to the first fault: what stands behind it has lost its place."""
        seq = 0
        while (item := self._next()) is not None:
            if isinstance(item, Problem):
                self._tell(item)
                if item.kind is not ProblemKind.CUT_OFF:
                    self._leave_out(session_id, seq + 1, "a line is damaged")
                return
            if not isinstance(item.value, dict) or "message" not in item.value:
                self._waiting = item
                if seq < count:
                    self._tell_broken(item.index, f"session {session_id} ends with seq {seq}, not {count}")
                return
            try:
                message = _message(item.value["message"], seq + 1)
            except _Malformed as error:
                self._leave_out(session_id, seq + 1, str(error))
                return
            seq += 1
            self._messages += 1
            yield message

    def _leave_out(self, session_id: int, seq: int, why: str) -> None:
        self._tell_broken(self._line, f"session {session_id} was left out from its seq {seq} on: {why}")
        self._skip_messages()

    def _skip_messages(self) -> None:
        """Step over the messages that follow."""
        while (item := self._next()) is not None:
            if not isinstance(item, Value) or not isinstance(item.value, dict) or "message" not in item.value:
                self._waiting = item
                break


def _hold_if_small(messages: Iterator[NewMessage]) -> Iterable[NewMessage]:
    """A list of all messages if they are few and short, so that the file can be read on; else an iterator."""
    held: list[NewMessage] = []
    size = 0
    for message in messages:
        held.append(message)
        size += len(message.content)
        if len(held) == _HELD_MESSAGES_MAX or size > _HELD_CHARACTERS_MAX:
            return chain(held, messages)
    return held


def _message(fields: object, seq: int) -> NewMessage:
    match fields:
        case {
            "id": int(own_id),
            "seq": int(own_seq),
            "role": str(role),
            "content": str(content),
            "created_at": int(created_at),
        }:
            pass
        case _:
            raise _Malformed("it is no message")
    if own_seq != seq:
        raise _Malformed(f"its seq is {own_seq}, not {seq}")
    meta = fields.get("meta") if isinstance(fields, dict) else None
    if role not in ROLES or not (meta is None or isinstance(meta, dict)):
        raise _Malformed("its role or meta is not what Armin takes")
    message = NewMessage(role, content, with_origin(meta, {"id": own_id, "created_at": created_at}))
    if not fits(message):
        raise _Malformed("its content or meta is not what Armin takes")
    return message
