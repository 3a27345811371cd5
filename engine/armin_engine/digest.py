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


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


_EMPTY: Final = _digest(b"")


def chain(previous: bytes, fact: Fact) -> bytes:
    """The digest of a fact's row, given the one before it (GENESIS for the first)."""
    return _digest(
        _ROW.pack(
            previous,
            fact.position,
            fact.kind,
            fact.session_id,
            fact.message_id,
            fact.role,
            fact.created_at,
            _digest(fact.content.encode()) if fact.content else _EMPTY,
            _digest(fact.meta.json.encode()) if fact.meta else _EMPTY,
        )
    )
