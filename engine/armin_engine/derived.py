"""What memory derives from committed facts, and every read: no SQLite from here on down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from armin_engine import limits, memory
from armin_engine.chunks import History
from armin_engine.delta import DeltaStore, DeltaView, SessionDelta
from armin_engine.errors import BadRequest, Conflict, CursorInvalid, SessionNotFound, StorageFailed
from armin_engine.facts import (
    MESSAGE_APPENDED,
    SESSION_CREATED,
    Event,
    Fact,
    FactFields,
    Kind,
    SessionInfo,
    new_fact,
    pack_closed_event,
    pack_created_at,
    pack_created_event,
    pack_events_of,
    pack_message,
    pack_message_event,
    pack_plain,
    pack_session_of,
    unpack,
)
from armin_engine.index import SessionIndex
from armin_engine.log import Entry, Log
from armin_engine.pages import EventPage, MessagePage, SessionPage, SnapshotPage, Tail
from armin_engine.records import Appended, check_cursor, check_id, check_limit, check_name
from armin_engine.snapshot import SessionSnapshot, SnapshotView


class Derived:
    """Snapshot (past) and delta (recent) of one database, its log and its index."""

    def __init__(self) -> None:
        self.log = Log()
        self.history_bytes = 0
        self._index = SessionIndex()
        self._delta = DeltaStore()
        self._snapshot = SnapshotView.empty(self._index.ids)
        self._handed_out = -1  # the number of the last view that somebody was given

    # --- deriving ---

    def take(self, facts: Sequence[Fact]) -> list[bytes]:
        """Take in committed facts; returns the messages among them packed, b"" for each other fact.

        For the engine only.
        """
        taken: list[bytes] = []
        last_session, messages, of_session = 0, list[bytes](), b""
        last_time: int | None = None
        at, count, size = b"", 0, 0
        for fact in facts:
            _, kind, session_id, message_id, seq, role, content, created_at, meta, _ = fact
            if kind is not MESSAGE_APPENDED:
                taken.append(b"")
                self._take_other(fact)
                continue
            if session_id != last_session:
                last_session, of_session = session_id, pack_session_of(session_id)
                messages = self._touched(session_id).tail
            if created_at != last_time:
                last_time, at = created_at, pack_created_at(created_at)
            if meta is None:
                packed = pack_plain(message_id, of_session, seq, role, content, at)
            else:
                packed = pack_message(fact)
            messages.append(packed)
            taken.append(packed)
            count += 1
            size += len(packed)
        self._delta.grew(count, size)
        self.history_bytes += count * memory.MESSAGE_OVERHEAD_BYTES + size
        self.log.extend(facts)  # last: what it speaks of is there, even if this is cut off by Ctrl-C
        return taken

    def _take_other(self, fact: Fact) -> None:
        if fact.kind is SESSION_CREATED:
            self._delta.create(fact, self._snapshot.fold + 1)
        else:
            self._touched(fact.session_id).closed_at = fact.position
        self._note_other(fact)

    def _note_other(self, fact: Fact) -> None:
        if fact.kind is SESSION_CREATED:
            self._index.add(fact.session_id, fact.content or None)
            self.history_bytes += memory.SESSION_OVERHEAD_BYTES + (len(fact.meta.packed) if fact.meta else 0)
        else:
            self._index.close(fact.session_id)

    def recovering(self, facts: Sequence[FactFields], size: int) -> None:
        """Take in what recovery has read, but for the sessions' messages, which weigh `size` bytes packed."""
        others = [new_fact(fields) for fields in facts if fields[1] is not MESSAGE_APPENDED]
        for fact in others:
            self._note_other(fact)
        self.history_bytes += (len(facts) - len(others)) * memory.MESSAGE_OVERHEAD_BYTES + size
        self.log.extend(facts)

    def recovered(self, sessions: Iterable[SessionSnapshot]) -> None:
        """Take in every session, in order of creation, as the first snapshot."""
        self._snapshot = self._snapshot.advanced(self.position, sessions)

    def _touched(self, session_id: int) -> SessionDelta:
        delta = self._delta.get(session_id)
        if delta is None:
            base = self._snapshot.get(session_id)
            assert base is not None, "facts speak of known sessions"
            delta = self._delta.touch(base)
        return delta

    def fold(self) -> int:
        """Fold the delta into the next snapshot; returns its position. Costs what the delta holds."""
        view = self._snapshot
        if view.position != self.position:
            changed = self._delta.folded(view.fold + 1, self._handed_out)
            self._snapshot = view.advanced(self.position, changed)
            self._delta.clear()
        return self._snapshot.position

    # --- reading ---

    @property
    def position(self) -> int:
        """The last committed position, 0 in an empty database."""
        return self.log.position

    @property
    def delta_bytes(self) -> int:
        """Bytes of packed messages since the snapshot."""
        return self._delta.bytes

    @property
    def delta_messages(self) -> int:
        """Messages since the snapshot."""
        return self._delta.messages

    @property
    def names(self) -> Mapping[str, int]:
        """Sessions by name."""
        return self._index.names

    def find(self, session_id: int) -> SessionDelta | SessionSnapshot | None:
        """A session as it stands, or None."""
        return self._delta.get(session_id) or self._snapshot.get(session_id)

    def named(self, name: str) -> int | None:
        """The id of the session of this name, or None."""
        return self._index.names.get(name)

    def _known(self, session_id: int) -> SessionDelta | SessionSnapshot:
        session = self.find(check_id(session_id, "session_id"))
        if session is None:
            raise SessionNotFound(f"there is no session {session_id}", field="session_id")
        return session

    def session(self, session_id: int | None = None, *, name: str | None = None) -> SessionInfo:
        """A session by its id or by its name."""
        if (session_id is None) == (name is None):
            raise BadRequest("give either session_id or name", field="session_id")
        if name is not None:
            session_id = self.named(check_name(name))
            if session_id is None:
                raise SessionNotFound("no session has this name", field="name")
        assert session_id is not None
        return self._known(session_id).info()

    def sessions(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = limits.PAGE_ITEMS_DEFAULT,
        closed: bool | None = None,
    ) -> SessionPage:
        """Sessions by ascending id behind `after`, or the newest ones before `before`."""
        _check_one_cursor(after, before)
        limit = check_limit(limit)
        if before is not None:
            ids = self._index.before(check_id(before, "before"), closed)
        else:
            ids = self._index.after(check_cursor(0 if after is None else after, "after"), closed)
        infos: list[SessionInfo] = []
        packed: list[bytes] = []
        room, more = limits.PAGE_BYTES_MAX, False
        for session_id in ids:
            info = self._known(session_id).info()
            item = info.pack()
            room -= len(item)
            more = len(infos) == limit or (room < 0 and bool(infos))
            if more:
                break
            infos.append(info)
            packed.append(item)
        if before is not None:
            infos.reverse()
            packed.reverse()
        return SessionPage(tuple(infos), tuple(packed), more)

    def tails(self, session_ids: Sequence[int]) -> list[Tail]:
        """The last seq of each session, and whether it is closed."""
        tails = []
        for session_id in session_ids:
            session = self._known(session_id)
            tails.append(Tail(session_id, session.seq, session.closed_at > 0))
        return tails

    def read(
        self,
        session_id: int,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = limits.PAGE_ITEMS_DEFAULT,
    ) -> MessagePage:
        """Messages behind seq `after`, or the page that ends just before seq `before`; ascending."""
        _check_one_cursor(after, before)
        session, limit = self._known(session_id), check_limit(limit)
        history = session.history()
        if before is not None:
            cut = history.before(check_id(before, "before"), limit, limits.PAGE_BYTES_MAX)
            more = cut.first > 1
        else:
            cursor = _check_within(
                0 if after is None else after, history.seq, "after", f"session {session_id}"
            )
            cut = history.after(cursor, limit, limits.PAGE_BYTES_MAX)
            more = cut.last < history.seq
        return MessagePage(cut.joined(), cut.length, more, history.seq, session.closed_at > 0)

    def snapshot(self) -> SnapshotView:
        """The immutable view of every session as of the last refresh."""
        self._handed_out = self._snapshot.fold
        return self._snapshot

    def delta(self, session_id: int) -> DeltaView:
        """One session's messages since the snapshot, fixed as of now."""
        session = self._known(session_id)
        if isinstance(session, SessionSnapshot):
            return DeltaView(session.seq + 1, [], 0)
        return session.view()

    def read_snapshot(
        self, session_id: int, *, after: int = 0, limit: int = limits.PAGE_ITEMS_DEFAULT
    ) -> SnapshotPage:
        """A page of the snapshot's part of a session; empty for a session younger than it."""
        current, limit = self._known(session_id), check_limit(limit)
        _check_within(after, current.seq, "after", f"session {session_id}")
        session = self._snapshot.get(session_id)
        history = History((), [], 0) if session is None else session.history()
        return self._snapshot_page(history, min(after, history.seq), limit, history.seq)

    def read_delta(
        self,
        session_id: int,
        *,
        after: int = 0,
        limit: int = limits.PAGE_ITEMS_DEFAULT,
        snapshot_position: int | None = None,
    ) -> SnapshotPage:
        """A page of what follows the snapshot; Conflict if that is not at `snapshot_position`."""
        session, limit = self._known(session_id), check_limit(limit)
        if snapshot_position is not None:
            check_cursor(snapshot_position, "snapshot_position")
            if snapshot_position != self._snapshot.position:
                raise Conflict(
                    f"the snapshot has moved to position {self._snapshot.position}",
                    field="snapshot_position",
                    reason="snapshot_moved",
                )
        history = session.history()
        past = self._snapshot.get(session_id)
        snapshot_seq = 0 if past is None else past.seq
        cursor = max(_check_within(after, history.seq, "after", f"session {session_id}"), snapshot_seq)
        return self._snapshot_page(history, cursor, limit, snapshot_seq)

    def _snapshot_page(self, history: History, cursor: int, limit: int, snapshot_seq: int) -> SnapshotPage:
        cut = history.after(cursor, limit, limits.PAGE_BYTES_MAX)
        return SnapshotPage(
            cut.joined(), cut.length, cut.last < history.seq, self._snapshot.position, snapshot_seq
        )

    def events(self, *, after: int = 0, limit: int = limits.PAGE_ITEMS_DEFAULT) -> EventPage:
        """Facts behind position `after`, in commit order, as they were announced."""
        limit = check_limit(limit)
        cursor = _check_within(after, self.position, "after", "the log")
        events: list[Event] = []
        reader, room = EventReader(self), limits.PAGE_BYTES_MAX
        for position in range(cursor + 1, min(cursor + limit, self.position) + 1):
            event = reader.event(position, self.log.entry(position))
            room -= len(event.packed)
            if room < 0 and events:
                break
            events.append(event)
        return EventPage(tuple(events), more=cursor + len(events) < self.position)

    def event(self, position: int) -> Event:
        """The event at a position, 1 to `self.position`."""
        return EventReader(self).event(position, self.log.entry(position))

    def created_at(self, position: int) -> int:
        """The session that a position creates, which a stored key points to. Raises StorageFailed."""
        if not 1 <= position <= self.position or self.log.entry(position).kind is not Kind.SESSION_CREATED:
            raise _contradiction(position)
        return self.log.entry(position).session_id

    def appended_at(self, session_id: int, position: int, count: int) -> Appended:
        """The outcome of an append, by what a stored key says of it. Raises StorageFailed."""
        if not 1 <= position <= position + count - 1 <= self.position:
            raise _contradiction(position)
        first, last = self.log.entry(position), self.log.entry(position + count - 1)
        if first[:2] != (Kind.MESSAGE_APPENDED, session_id) or last != (*first[:2], first.seq + count - 1):
            raise _contradiction(position)
        message = unpack(self._known(session_id).history().message(first.seq))
        return Appended(message["id"], first.seq, position, count, message["created_at"], duplicate=True)

    def packed_message(self, session_id: int, seq: int) -> bytes | None:
        """A message as it is held in memory, or None."""
        session = self.find(session_id)
        return None if session is None or not 1 <= seq <= session.seq else session.history().message(seq)


class EventReader:
    """Events at one position after the other, cheapest where neighbours are of one session.

    Good until the next facts are taken in.
    """

    __slots__ = ("_facts", "_history", "_of_session", "_session_id")

    def __init__(self, facts: Derived) -> None:
        self._facts = facts
        self._session_id = 0
        self._of_session = b""
        self._history = History((), [], 0)

    def event(self, position: int, entry: Entry) -> Event:
        """The event at a position, 1 to the last one, where the log has `entry`."""
        kind, session_id, seq = entry
        if kind is MESSAGE_APPENDED:
            if session_id != self._session_id:
                self._session_id, self._of_session = session_id, pack_events_of(session_id)
                self._history = self._session(session_id).history()
            return pack_message_event(position, session_id, self._of_session, self._history.message(seq))
        if kind is SESSION_CREATED:
            return pack_created_event(position, self._session(session_id).info())
        return pack_closed_event(position, session_id)

    def _session(self, session_id: int) -> SessionDelta | SessionSnapshot:
        session = self._facts.find(session_id)
        assert session is not None, "the log speaks of known sessions"
        return session


def _contradiction(position: int) -> StorageFailed:
    return StorageFailed(
        f"a stored key points to position {position}, where its write is not; check the file with"
        " 'armin verify'",
        reason="keys",
        retry=False,
    )


def _check_one_cursor(after: int | None, before: int | None) -> None:
    if after is not None and before is not None:
        raise BadRequest("give either after or before", field="before")


def _check_within(cursor: int, end: int, field: str, what: str) -> int:
    check_cursor(cursor, field)
    if cursor > end:
        raise CursorInvalid(
            f"{field} is {cursor}, but {what} ends at {end}: it belongs to another or a restored database",
            field=field,
            limit=end,
        )
    return cursor
