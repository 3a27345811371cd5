"""Which sessions there are, in order of creation, which are closed, and what they are called."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from armin_engine.snapshot import ordinal

_FLAGS = (b"\0", b"\1")


class SessionIndex:
    """Ids ascending, one closed flag each; a search for a flag runs at the speed of memchr."""

    def __init__(self) -> None:
        self.ids = array("q")  # shared with the snapshots, which know how many of them are theirs
        self.names: dict[str, int] = {}
        self._closed = bytearray()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, session_id: int, name: str | None) -> None:
        """Take in the next session; ids ascend."""
        self.ids.append(session_id)
        self._closed.append(0)
        if name is not None:
            self.names[name] = session_id

    def close(self, session_id: int) -> None:
        """Mark a session as closed."""
        index = ordinal(self.ids, session_id)
        assert index is not None, "only known sessions are closed"
        self._closed[index] = 1

    def closed_count(self) -> int:
        """How many sessions are closed."""
        return self._closed.count(1)

    def after(self, session_id: int, closed: bool | None) -> Iterator[int]:
        """Ids above `session_id`, ascending, of all sessions or of those (not) closed."""
        index = bisect_right(self.ids, session_id)
        while index < len(self.ids):
            if closed is not None:
                index = self._closed.find(_FLAGS[closed], index)
                if index < 0:
                    return
            yield self.ids[index]
            index += 1

    def before(self, session_id: int, closed: bool | None) -> Iterator[int]:
        """Ids below `session_id`, descending."""
        index = bisect_left(self.ids, session_id) - 1
        while index >= 0:
            if closed is not None:
                index = self._closed.rfind(_FLAGS[closed], 0, index + 1)
                if index < 0:
                    return
            yield self.ids[index]
            index -= 1
