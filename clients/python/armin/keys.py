"""Idempotency keys that grow with time: UUIDs of version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import secrets
import threading
import time
from typing import Final

_RANDOM_BITS: Final = 74


class Keys:
    """Makes keys, each greater than the last; safe in threads and after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._random = 0

    def new(self) -> str:
        """A key that nobody has used."""
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millisecond:
                self._millisecond, self._random = now, secrets.randbits(_RANDOM_BITS - 1)
            else:  # within one millisecond, or after the clock was set back
                self._random += 1
                if self._random >> _RANDOM_BITS:
                    self._millisecond += 1
                    self._random = secrets.randbits(_RANDOM_BITS - 1)
            return _text(self._millisecond, self._random)


def _text(millisecond: int, random: int) -> str:
    high, low = random >> 62, random & ((1 << 62) - 1)
    number = (millisecond & ((1 << 48) - 1)) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_keys = Keys()


def new_key() -> str:
    """A key that nobody has used, greater than all that this process made before."""
    return _keys.new()


def _begin_anew() -> None:
    # The lock may have been held at the fork, and the parent goes on from the same random bits.
    global _keys  # noqa: PLW0603 - one source for the process is what makes the keys grow
    _keys = Keys()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
