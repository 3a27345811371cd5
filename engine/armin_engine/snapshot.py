"""The past: an immutable view of every session at one position."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from armin_engine import limits
from armin_engine.chunks import Chunk, History, extend
from armin_engine.facts import Message, SessionInfo, message_from, unpack

_NO_TAIL: list[bytes] = []  # stays empty: whoever follows it begins a list of its own


class SessionSnapshot:
    """One session in a snapshot. `closed_at` is the position of its closure, or 0.

    Its last messages may stand in a list that the session's delta goes on filling: `tail_count` of them are
    this snapshot's. So a fold copies none of them; it seals them when there are TAIL_MESSAGES_MAX.

    Immutable from when a view with it is handed out, which `fold` says: that it belongs to the views from
    that number on. Until then the engine's own folds change it in place.
    """

    __slots__ = (
        "chunks",
        "closed_at",
        "created_at",
        "fold",
        "id",
        "name",
        "packed_meta",
        "seq",
        "tail",
        "tail_count",
    )

    def __init__(
        self,
        session_id: int,
        created_at: int,
        name: str | None,
        packed_meta: bytes | None,
        chunks: tuple[Chunk, ...] = (),
        seq: int = 0,
        closed_at: int = 0,
        fold: int = 0,
    ) -> None:
        self.id = session_id
        self.created_at = created_at
        self.name = name
        self.packed_meta = packed_meta
        self.chunks = chunks
        self.seq = seq
        self.closed_at = closed_at
        self.fold = fold
        self.tail = _NO_TAIL
        self.tail_count = 0

    def extend(self, chunks: tuple[Chunk, ...], sealed: int, tail: list[bytes], closed_at: int) -> None:
        """Become what `chunks`, to seq `sealed`, and the messages behind them make."""
        count = len(tail)
        if count >= limits.TAIL_MESSAGES_MAX or (closed_at and count):
            self.chunks = extend(chunks, sealed + 1, tail)
            self.tail, self.tail_count = _NO_TAIL, 0
        else:
            self.chunks = chunks
            self.tail, self.tail_count = (tail, count) if count else (_NO_TAIL, 0)
        self.seq = sealed + count
        self.closed_at = closed_at

    def successor(self, fold: int) -> SessionSnapshot:
        """The same session, empty, for the views from `fold` on."""
        return SessionSnapshot(self.id, self.created_at, self.name, self.packed_meta, fold=fold)

    def history(self) -> History:
        """Its messages."""
        return History(self.chunks, self.tail, self.tail_count)

    def info(self) -> SessionInfo:
        """Its description."""
        return SessionInfo(
            self.id, self.name, self.closed_at > 0, self.created_at, self.seq, self.packed_meta
        )

    def messages(self) -> Iterator[Message]:
        """Its messages, decoded one after the other."""
        history = self.history()
        for seq in range(1, self.seq + 1):
            yield message_from(unpack(history.message(seq)))


_Leaf = tuple[SessionSnapshot, ...]


class SnapshotView:
    """Every session as it stood at `position`. Once handed out it is immutable; any thread may read it.

    Sessions stand in leaves of SESSIONS_PER_LEAF by their order of creation, so the next view copies
    the leaves that changed and one pointer for each of the others.
    """

    __slots__ = ("_ids", "_leaves", "count", "fold", "position")

    def __init__(
        self, position: int, count: int, leaves: tuple[_Leaf, ...], ids: array[int], fold: int = 0
    ) -> None:
        self.position = position
        self.fold = fold  # how many folds led here
        self.count = count
        self._leaves = leaves
        self._ids = ids  # shared with the engine and growing; this view knows the first `count`

    @classmethod
    def empty(cls, ids: array[int]) -> SnapshotView:
        """The view of a database that holds nothing yet."""
        return cls(0, 0, (), ids)

    def get(self, session_id: int) -> SessionSnapshot | None:
        """The session, or None where it is unknown or younger than the snapshot."""
        index = ordinal(self._ids, session_id)
        return None if index is None or index >= self.count else self.at(index)

    def at(self, index: int) -> SessionSnapshot:
        """The session created as number `index`, from 0 to `count` - 1."""
        leaf, place = divmod(index, limits.SESSIONS_PER_LEAF)
        return self._leaves[leaf][place]

    def __iter__(self) -> Iterator[SessionSnapshot]:
        for leaf in self._leaves:
            yield from leaf

    def __len__(self) -> int:
        return self.count

    def advanced(self, position: int, changed: Iterable[SessionSnapshot]) -> SnapshotView:
        """The next view: `changed` replaces or follows the sessions here, new ones in order of creation.

        Sessions that the fold has changed in place are no part of it.
        """
        touched: dict[int, list[SessionSnapshot]] = {}
        known, count, ids, size = self.count, self.count, self._ids, limits.SESSIONS_PER_LEAF
        for session in changed:
            index = ordinal(ids, session.id)
            assert index is not None, "only sessions of the index are ever changed"
            leaf = index // size
            sessions = touched.get(leaf)
            if sessions is None:
                sessions = list(self._leaves[leaf]) if leaf < len(self._leaves) else []
                touched[leaf] = sessions
            if index < known:
                sessions[index % size] = session
            else:
                assert index == count, "new sessions come in order of creation"
                sessions.append(session)
                count += 1
        leaves = list(self._leaves)
        for leaf, sessions in sorted(touched.items()):
            leaves[leaf : leaf + 1] = [tuple(sessions)]
        return SnapshotView(position, count, tuple(leaves), self._ids, self.fold + 1)


def ordinal(ids: array[int], session_id: int) -> int | None:
    """Place of a session in the ascending `ids`, or None. At once where ids are dense from 1."""
    if 1 <= session_id <= len(ids) and ids[session_id - 1] == session_id:
        return session_id - 1
    index = bisect_left(ids, session_id)
    return index if index < len(ids) and ids[index] == session_id else None
