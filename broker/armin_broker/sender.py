"""Who sent a command, as far as the transport vouches for it."""

from __future__ import annotations

from typing import Final, NamedTuple


class Sender(NamedTuple):
    """`role` is None for a peer that needs no key: on ipc, or on a TCP port without keys."""

    role: str | None
    name: str  # of its key


TRUSTED: Final = Sender(None, "")
UNKNOWN: Final = Sender("", "")  # its key is gone, its connection is about to be
