"""Leases that were acknowledged a little earlier, so that a resent `ack` is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

RECENT_MAX: Final = 65_536  # some 10 MB; a resend comes within seconds


class RecentAcks:
    """The last RECENT_MAX of them, over all groups: a lease names its group."""

    def __init__(self) -> None:
        self._leases: dict[str, None] = {}

    def __contains__(self, lease: str) -> bool:
        return lease in self._leases

    def add(self, leases: Iterable[str]) -> None:
        """These are acknowledged, and that is on disk."""
        self._leases.update(dict.fromkeys(leases))
        while len(self._leases) > RECENT_MAX:
            del self._leases[next(iter(self._leases))]
