"""Leases that were acknowledged a little earlier, so that a resent `ack` is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

RECENT_MAX: Final = 65_536  # some 10 MB; a resend comes within seconds


class RecentAcks:
    """The last RECENT_MAX of them, over all groups: a lease names its group, and is acknowledged once."""

    def __init__(self) -> None:
        self._leases: set[str] = set()
        # Their order is kept apart: a dict's oldest key is found only past all that were deleted before it.
        self._order: deque[str] = deque()

    def __contains__(self, lease: str) -> bool:
        return lease in self._leases

    def add(self, leases: Collection[str]) -> None:
        """These are acknowledged, and that is on disk."""
        self._leases.update(leases)
        self._order.extend(leases)
        while len(self._order) > RECENT_MAX:
            self._leases.discard(self._order.popleft())
