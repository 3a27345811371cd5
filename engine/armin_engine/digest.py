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
    row = _ROW.pack(
        previous,
        fact.position,
        fact.kind,
        fact.session_id,
        fact.message_id,
        fact.role,
        fact.created_at,
        fact.content_digest or (text_digest(fact.content) if fact.content else _EMPTY),
        text_digest(fact.meta.json) if fact.meta else _EMPTY,
    )
    return blake2b(row, digest_size=DIGEST_BYTES).digest()
