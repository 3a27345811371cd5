"""A stream of bytes that cannot be rewound, with a look at its beginning."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import IO, Final

CHUNK_BYTES: Final = 256 << 10  # read at once


class ByteSource:
    """A binary stream read forward. `offset` counts the bytes handed out, the byte order mark included."""

    def __init__(self, stream: IO[bytes]) -> None:
        # read1 gives what a pipe holds at the moment instead of waiting for a full chunk
        self._read: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
        self.head = b""  # looked at, not handed out yet
        self.offset = 0
        self._ended = False

    def look(self) -> bool:
        """Read more into `head`; False at the end of the stream."""
        chunk = self._next(CHUNK_BYTES)
        self.head += chunk
        return bool(chunk)

    def skip_bom(self) -> None:
        """Leave out a byte order mark in `head`."""
        if self.head.startswith(codecs.BOM_UTF8):
            self.head = self.head[len(codecs.BOM_UTF8) :]
            self.offset += len(codecs.BOM_UTF8)

    def take(self, pending: int) -> bytes:
        """What comes next, at least a byte; empty at the end of the stream.

        `pending` bytes wait for it. If they are many, as many again are taken at once: whoever joins or
        decodes them anew each time does so a few times, not once for every piece that a pipe gives.
        """
        if self.head:
            chunk, self.head = self.head, b""
        else:
            chunk = self._next(CHUNK_BYTES)
            pieces, size = [chunk], len(chunk)
            while chunk and size < pending and pending > CHUNK_BYTES:
                chunk = self._next(CHUNK_BYTES)
                pieces.append(chunk)
                size += len(chunk)
            chunk = b"".join(pieces)
        self.offset += len(chunk)
        return chunk

    def _next(self, size: int) -> bytes:
        chunk = b"" if self._ended else self._read(size)
        self._ended = not chunk
        return chunk
