"""Whole messages out of a ZMTP 3 byte stream, so that what lies between two peers can lose exactly one.

A connection begins with a greeting of 64 bytes; then come frames: a byte of flags, a length, a body. A
message is every frame up to the one without MORE; a command (handshake, subscription) is a frame alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

GREETING_BYTES: Final = 64
MORE: Final = 1
LONG: Final = 2
COMMAND: Final = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """Bytes that are forwarded or lost as one; `message` is False for a greeting or a command."""

    data: bytes
    message: bool


class Splitter:
    """One direction of one connection: takes chunks, gives units."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeting = GREETING_BYTES  # bytes of it that are still to come
        self._parsed = 0  # bytes of whole frames at the buffer's beginning, of a message still going on

    def feed(self, chunk: bytes) -> Iterator[Unit]:
        """The units that are whole with this chunk."""
        if self._greeting and chunk:
            # Peers send theirs in pieces and wait for each other in between.
            piece, chunk = chunk[: self._greeting], chunk[self._greeting :]
            self._greeting -= len(piece)
            yield Unit(piece, False)
        self._buffer += chunk
        while (end := self._frame_end()) is not None:
            flags = self._buffer[self._parsed]
            if flags & COMMAND and self._parsed == 0:
                yield self._take(end, message=False)
            elif flags & MORE:
                self._parsed = end
            else:
                yield self._take(end, message=True)

    def _frame_end(self) -> int | None:
        """Where the frame that begins at `_parsed` ends; None if it is not whole yet."""
        start, buffer = self._parsed, self._buffer
        if len(buffer) < start + 2:
            return None
        if not buffer[start] & LONG:
            end = start + 2 + buffer[start + 1]
        elif len(buffer) < start + 9:
            return None
        else:
            end = start + 9 + int.from_bytes(buffer[start + 1 : start + 9])
        return end if end <= len(buffer) else None

    def _take(self, size: int, *, message: bool) -> Unit:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._parsed = 0
        return Unit(data, message)
