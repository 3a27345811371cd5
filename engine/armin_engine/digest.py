"""The digest chain over the log: it shows rot and careless hands.

Each row's digest covers the row before it, so one number stands for everything up to a position.
Content and meta enter as digests of their own: erasing them one day leaves the chain whole.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

from armin_engine.facts import Fact

DIGEST_BYTES: Final = 16
GENESIS: Final = bytes(DIGEST_BYTES)

# previous, position, kind, session id, message id, role, created_at, H(content), H(meta)
_ROW: Final = struct.Struct("<16sQBqqbq16s16s")


def text_digest(text: str) -> bytes:
    """The digest of a content or of a meta's JSON."""
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


_EMPTY: Final = text_digest("")


def chain(previous: bytes, fact: Fact) -> bytes:
    """The digest of a fact's row, given the one before it (GENESIS for the first)."""
    position, kind, session_id, message_id, _, role, content, created_at, meta, digest = fact
    of_content = digest or (text_digest(content) if content else _EMPTY)
    of_meta = text_digest(meta.json) if meta else _EMPTY
    row = _ROW.pack(previous, position, kind, session_id, message_id, role, created_at, of_content, of_meta)
    return blake2b(row, digest_size=DIGEST_BYTES).digest()
