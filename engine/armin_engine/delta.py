"""The recent: what was committed since the snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from armin_engine.chunks import History
from armin_engine.facts import Fact, Message, SessionInfo, message_from, unpack
from armin_engine.snapshot import SessionSnapshot


class SessionDelta:
    """One session's messages and closure since the snapshot; `base` is the session before them.

    It knows all by itself that a fold changes in the base, so a fold that was cut off is simply done again.
    `past` is the snapshot's last seq; `tail` begins with what that has not sealed, and only ever grows.
    """

    __slots__ = ("base", "chunks", "closed_at", "past", "sealed", "tail")

    def __init__(self, base: SessionSnapshot) -> None:
        self.base = base
        self.chunks = base.chunks
        self.past = base.seq
        self.sealed = base.seq - base.tail_count  # seq of the last message in the chunks
        self.tail: list[bytes] = base.tail if base.tail_count else []
        self.closed_at = base.closed_at

    @property
    def seq(self) -> int:
        """Seq of the session's last message."""
        return self.sealed + len(self.tail)

    def history(self) -> History:
        """The whole session, snapshot and delta as one, as it stands now."""
        return History(self.chunks, self.tail, len(self.tail))

    def view(self) -> DeltaView:
        """What came since the snapshot, as it stands now."""
        return DeltaView(self.past + 1, self.tail, self.past - self.sealed)

    def info(self) -> SessionInfo:
        """The session's description as it stands now."""
        base = self.base
        return SessionInfo(
            base.id, base.name, self.closed_at > 0, base.created_at, self.seq, base.packed_meta
        )


class DeltaView:
    """One session's messages behind the snapshot, fixed at the moment it was handed out."""

    __slots__ = ("_start", "_stop", "_tail", "first_seq")

    def __init__(self, first_seq: int, tail: list[bytes], start: int) -> None:
        self.first_seq = first_seq
        self._tail = tail
        self._start = start
        self._stop = len(tail)

    def __len__(self) -> int:
        return self._stop - self._start

    def messages(self) -> Iterator[Message]:
        """The messages, decoded one after the other."""
        for index in range(self._start, self._stop):
            yield message_from(unpack(self._tail[index]))


class DeltaStore:
    """Every session touched since the snapshot, in the order in which they were first touched."""

    def __init__(self) -> None:
        self._sessions: dict[int, SessionDelta] = {}
        self.messages = 0
        self.bytes = 0

    def get(self, session_id: int) -> SessionDelta | None:
        """The session's delta, or None where nothing happened to it."""
        return self._sessions.get(session_id)

    def __len__(self) -> int:
        return len(self._sessions)

    def create(self, fact: Fact, fold: int) -> None:
        """Take in a session's creation, for the views from `fold` on."""
        session = SessionSnapshot(
            fact.session_id,
            fact.created_at,
            fact.content or None,
            fact.meta.packed if fact.meta else None,
            fold=fold,
        )
        self._sessions[fact.session_id] = SessionDelta(session)

    def touch(self, base: SessionSnapshot) -> SessionDelta:
        """The delta of a session that is in the snapshot."""
        delta = self._sessions.get(base.id)
        if delta is None:
            delta = self._sessions[base.id] = SessionDelta(base)
        return delta

    def grew(self, messages: int, size: int) -> None:
        """So many messages of so many bytes were put into the sessions here."""
        self.messages += messages
        self.bytes += size

    def folded(self, fold: int, handed_out: int) -> list[SessionSnapshot]:
        """Fold everything into view number `fold`; views already handed out stay.

        Changes sessions in place where no view up to `handed_out` has them; returns the others, and new ones.
        `clear` comes when that view is there.
        """
        changed: list[SessionSnapshot] = []
        for delta in self._sessions.values():
            session = delta.base
            if session.fold <= handed_out:
                session = session.successor(fold)
            session.extend(delta.chunks, delta.sealed, delta.tail, delta.closed_at)
            if session.fold == fold:
                changed.append(session)
        return changed

    def clear(self) -> None:
        """Start empty."""
        self._sessions = {}
        self.messages = self.bytes = 0
