"""The log in memory: which session and which message each position speaks of, 16 bytes a fact."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from armin_engine.facts import FactFields, Kind

# Places in a fact.
_KIND: Final = 1
_SESSION_ID: Final = 2
_SEQ: Final = 4

_KIND_BITS = 2
_KIND_MASK = (1 << _KIND_BITS) - 1


class Entry(NamedTuple):
    """What one position speaks of; `seq` is 0 unless it is a message."""

    kind: Kind
    session_id: int
    seq: int


_new_entry: Final = partial(tuple.__new__, Entry)  # at half the cost of naming the class

_KINDS = (None, Kind.SESSION_CREATED, Kind.MESSAGE_APPENDED, Kind.SESSION_CLOSED)


class Log:
    """Every committed fact in commit order; positions are dense from 1."""

    def __init__(self) -> None:
        self._sessions = array("q")
        self._slots = array("q")  # seq and kind in one number

    @property
    def position(self) -> int:
        """The last committed position, 0 before the first fact."""
        return len(self._sessions)

    def extend(self, facts: Sequence[FactFields]) -> None:
        """Take in the next facts."""
        self._slots.extend([fact[_SEQ] << _KIND_BITS | fact[_KIND] for fact in facts])
        # Last: it says how many positions there are.
        self._sessions.extend([fact[_SESSION_ID] for fact in facts])

    def entry(self, position: int) -> Entry:
        """What `position` speaks of, 1 to `self.position`."""
        slot = self._slots[position - 1]
        kind = _KINDS[slot & _KIND_MASK]
        assert kind is not None
        return _new_entry((kind, self._sessions[position - 1], slot >> _KIND_BITS))
