"""The plan of a group commit: commands checked against memory plus what the group has done so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from armin_engine import limits
from armin_engine.errors import Conflict, EngineError, SessionClosed, SessionNotFound, StorageFailed
from armin_engine.records import (
    Append,
    Appended,
    Closed,
    CloseSession,
    Command,
    Created,
    CreateSession,
    Fact,
    Kind,
    Meta,
    SessionInfo,
)
from armin_engine.stored import Sequences

Result = Created | Appended | Closed
Outcome = Result | EngineError


class Session(Protocol):
    """A session as it stands in memory."""

    @property
    def seq(self) -> int:
        """Seq of its last message."""

    @property
    def closed_at(self) -> int:
        """Position of its closure, or 0."""

    def info(self) -> SessionInfo:
        """Its description."""


class _Draft:
    """A session as the group will leave it."""

    __slots__ = ("_info", "closed_at", "seq")

    def __init__(self, info: SessionInfo, closed_at: int) -> None:
        self._info = info
        self.seq = info.seq
        self.closed_at = closed_at

    def info(self) -> SessionInfo:
        info = self._info
        return SessionInfo(
            info.id, info.name, self.closed_at > 0, info.created_at, self.seq, info.packed_meta
        )


class Plan:
    """Facts that a group would commit. Memory stays as it is until they are on disk."""

    def __init__(
        self,
        find: Callable[[int], Session | None],
        names: Mapping[str, int],
        position: int,
        last_ids: Sequences,
        now: int,
    ) -> None:
        self.facts: list[Fact] = []
        self._find = find
        self._names = names
        self._position = position
        self._session_id = last_ids.sessions
        self._message_id = last_ids.messages
        self._now = now
        self._drafts: dict[int, _Draft] = {}
        self._new_names: dict[str, int] = {}

    def add(self, command: Command) -> Outcome:
        """The outcome of a command, provided that the group commits; a bad one adds no fact."""
        try:
            if type(command) is Append:
                return self._append(command)
            if type(command) is CreateSession:
                return self._create(command)
            assert type(command) is CloseSession
            return self._close(command)
        except EngineError as error:
            return error

    def _create(self, command: CreateSession) -> Created:
        name = command.name
        if name is not None:
            known = self._new_names.get(name) or self._names.get(name)
            if known is not None:
                return Created(self._session(known).info(), duplicate=True)
        session_id = self._session_id + 1
        _check_room(session_id, "session")
        packed_meta = command.meta.packed if command.meta else None
        info = SessionInfo(session_id, name, False, self._now, 0, packed_meta)
        self._record(Kind.SESSION_CREATED, session_id, content=name or "", meta=command.meta)
        self._session_id = session_id
        self._drafts[session_id] = _Draft(info, closed_at=0)
        if name is not None:
            self._new_names[name] = session_id
        return Created(info, duplicate=False)

    def _append(self, command: Append) -> Appended:
        session_id = command.session_id
        session = self._session(session_id)
        if session.closed_at:
            raise SessionClosed(f"session {session_id} is closed", field="session_id")
        seq = session.seq
        if command.expect_seq is not None and command.expect_seq != seq + 1:
            raise Conflict(
                f"expect_seq is {command.expect_seq}, but the next seq of session {session_id} is {seq + 1}",
                field="expect_seq",
                reason="expect_seq",
            )
        count = len(command.messages)
        first_id, first_at = self._message_id + 1, self._position + 1
        _check_room(self._message_id + count, "message")
        for message in command.messages:
            seq += 1
            self._message_id += 1
            self._position += 1
            self.facts.append(
                Fact(
                    self._position,
                    Kind.MESSAGE_APPENDED,
                    session_id,
                    self._message_id,
                    seq,
                    message.role,
                    message.content,
                    self._now,
                    message.meta,
                )
            )
        self._draft(session_id, session).seq = seq
        return Appended(first_id, seq - count + 1, first_at, count, self._now)

    def _close(self, command: CloseSession) -> Closed:
        session = self._session(command.session_id)
        if session.closed_at:
            return Closed(session.closed_at, duplicate=True)
        self._record(Kind.SESSION_CLOSED, command.session_id)
        self._draft(command.session_id, session).closed_at = self._position
        return Closed(self._position, duplicate=False)

    def _record(self, kind: Kind, session_id: int, content: str = "", meta: Meta | None = None) -> None:
        self._position += 1
        created_at = self._now if kind is Kind.SESSION_CREATED else 0
        self.facts.append(Fact(self._position, kind, session_id, 0, 0, -1, content, created_at, meta))

    def _session(self, session_id: int) -> Session:
        session = self._drafts.get(session_id) or self._find(session_id)
        if session is None:
            raise SessionNotFound(f"there is no session {session_id}", field="session_id")
        return session

    def _draft(self, session_id: int, session: Session) -> _Draft:
        draft = self._drafts.get(session_id)
        if draft is None:
            draft = self._drafts[session_id] = _Draft(session.info(), session.closed_at)
        return draft


def _check_room(last_id: int, noun: str) -> None:
    if last_id > limits.ID_MAX:
        raise StorageFailed(f"no {noun} ids are left in this database", reason="ids", retry=False)
