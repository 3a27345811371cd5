"""The plan of a group commit: commands checked against memory plus what the group has done so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Protocol

from armin_engine import limits
from armin_engine.digest import text_digest
from armin_engine.errors import Conflict, EngineError, SessionClosed, SessionNotFound, StorageFailed
from armin_engine.facts import MESSAGE_APPENDED, new_fact
from armin_engine.keys import NO_SESSION, Key, KeyRow, Stored, append_request, create_request
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
    Recorded,
    Rows,
    SessionInfo,
    new_appended,
)
from armin_engine.stored import Sequences

Result = Created | Appended | Closed | Recorded
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


class Memory(Protocol):
    """What is committed already."""

    @property
    def position(self) -> int:
        """The last position."""

    @property
    def names(self) -> Mapping[str, int]:
        """Sessions by name."""

    def find(self, session_id: int) -> Session | None:
        """A session as it stands, or None."""

    def created_at(self, position: int) -> int:
        """The session that a position creates, which a stored key points to. Raises StorageFailed."""

    def appended_at(self, session_id: int, position: int, count: int) -> Appended:
        """The outcome of an append, by what a stored key says of it. Raises StorageFailed."""


class Plan:
    """What a group would commit. Memory stays as it is until that is on disk.

    stored: those keys of the group's commands that are in the file.
    """

    def __init__(self, memory: Memory, stored: Mapping[Key, Stored], last_ids: Sequences, now: int) -> None:
        self.facts: list[Fact] = []
        self.keys: list[KeyRow] = []
        self.rows: list[Rows] = []
        self._memory = memory
        self._stored = stored
        self._new_keys: dict[Key, tuple[bytes, Created | Appended]] = {}
        self._position = memory.position
        self._session_id = last_ids.sessions
        self._message_id = last_ids.messages
        self._now = now
        self._drafts: dict[int, _Draft] = {}
        self._new_names: dict[str, int] = {}

    def add(self, command: Command) -> Outcome:
        """The outcome of a command, provided that the group commits; a bad one adds nothing."""
        try:
            if type(command) is Append:
                return self._append(command)
            if type(command) is CreateSession:
                return self._create(command)
            if type(command) is CloseSession:
                return self._close(command)
            assert type(command) is Rows
            self.rows.append(command)
            return Recorded()
        except EngineError as error:
            return error

    @property
    def size(self) -> int:
        """Grows with everything that is to be written."""
        return len(self.facts) + len(self.rows)

    def _create(self, command: CreateSession) -> Created:
        if command.key is None:
            return self._create_anew(command)
        key, request = (command.key, NO_SESSION), create_request(command)
        if key in self._new_keys:
            first, created = self._new_keys[key]
            _check_same(request, first)
            assert isinstance(created, Created)  # the keys of no session create one
            return Created(self._draft(created.session.id).info(), duplicate=True)
        if key in self._stored:
            stored = self._stored[key]
            _check_same(request, stored.request)
            session_id = self._memory.created_at(stored.position)
            return Created(self._draft(session_id).info(), duplicate=True)
        outcome = self._create_anew(command)
        if not outcome.duplicate:  # else nothing is written, so there is nothing to remember
            self._new_keys[key] = request, outcome
            self.keys.append((*key, self._position, 1, request))
        return outcome

    def _create_anew(self, command: CreateSession) -> Created:
        name = command.name
        if name is not None:
            known = self._new_names.get(name) or self._memory.names.get(name)
            if known is not None:
                return Created(self._draft(known).info(), duplicate=True)
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
        session_id, messages, _, name, after_key = command
        draft = self._drafts.get(session_id) or self._draft(session_id)
        if name is None:
            self._check_follows(after_key, session_id)
            return self._append_anew(command, draft, None)
        key = name, session_id
        digests = [text_digest(content) for _, content, _, _ in messages]
        request = append_request(messages, digests)
        if key in self._new_keys:
            first, known = self._new_keys[key]
            _check_same(request, first)
            assert isinstance(known, Appended)  # a session's keys create none
            return known._replace(duplicate=True)
        if key in self._stored:
            stored = self._stored[key]
            _check_same(request, stored.request)
            return self._memory.appended_at(session_id, stored.position, stored.length)
        self._check_follows(after_key, session_id)
        outcome = self._append_anew(command, draft, digests)
        _, _, position, count, _, _ = outcome
        self._new_keys[key] = request, outcome
        self.keys.append((name, session_id, position, count, request))
        return outcome

    def _check_follows(self, after_key: str | None, session_id: int) -> None:
        if after_key is None:
            return
        key = after_key, session_id
        if key in self._new_keys or key in self._stored:
            return
        raise Conflict(
            f"the write that this one follows is not in session {session_id}; send that first",
            field="after_key",
            reason="out_of_order",
            retry=True,
        )

    def _append_anew(self, command: Append, draft: _Draft, digests: Sequence[bytes] | None) -> Appended:
        session_id, messages, expect_seq, _, _ = command
        if draft.closed_at:
            raise SessionClosed(f"session {session_id} is closed", field="session_id")
        first_seq = seq = draft.seq + 1
        if expect_seq is not None and expect_seq != seq:
            raise Conflict(
                f"expect_seq is {expect_seq}, but the next seq of session {session_id} is {seq}",
                field="expect_seq",
                reason="expect_seq",
            )
        first_id = number = self._message_id + 1
        first_at = at = self._position + 1
        _check_room(self._message_id + len(messages), "message")
        facts, kind, now = self.facts, MESSAGE_APPENDED, self._now
        for (role, content, meta, _), digest in zip(messages, digests or repeat(None), strict=False):
            facts.append(new_fact((at, kind, session_id, number, seq, role, content, now, meta, digest)))
            at += 1
            number += 1
            seq += 1
        self._message_id, self._position, draft.seq = number - 1, at - 1, seq - 1
        return new_appended((first_id, first_seq, first_at, len(messages), now, False))

    def _close(self, command: CloseSession) -> Closed:
        draft = self._draft(command.session_id)
        if draft.closed_at:
            return Closed(draft.closed_at, duplicate=True)
        self._record(Kind.SESSION_CLOSED, command.session_id)
        draft.closed_at = self._position
        return Closed(self._position, duplicate=False)

    def _record(self, kind: Kind, session_id: int, content: str = "", meta: Meta | None = None) -> None:
        self._position += 1
        created_at = self._now if kind is Kind.SESSION_CREATED else 0
        self.facts.append(Fact(self._position, kind, session_id, 0, 0, -1, content, created_at, meta))

    def _draft(self, session_id: int) -> _Draft:
        draft = self._drafts.get(session_id)
        if draft is None:
            session = self._memory.find(session_id)
            if session is None:
                raise SessionNotFound(f"there is no session {session_id}", field="session_id")
            draft = self._drafts[session_id] = _Draft(session.info(), session.closed_at)
        return draft


def _check_same(request: bytes, first: bytes) -> None:
    if request != first:
        raise Conflict("this key was used for another request", field="key", reason="key_reused")


def _check_room(last_id: int, noun: str) -> None:
    if last_id > limits.ID_MAX:
        raise StorageFailed(f"no {noun} ids are left in this database", reason="ids", retry=False)
