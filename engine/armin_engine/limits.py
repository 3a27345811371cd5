"""The engine's limits. Each has a unit and a reason; `hello` names them to clients."""

from __future__ import annotations

from typing import Final

CONTENT_BYTES_MAX: Final = 16 << 20  # one message's content in UTF-8; larger goes by reference
META_BYTES_MAX: Final = 64 << 10  # one meta as JSON text in UTF-8: facts about a message, not a message
META_DEPTH_MAX: Final = 16  # nested maps and arrays, the meta itself being the first
KEY_BYTES_MAX: Final = 256  # one idempotency key in UTF-8; every write may add one for ever
NAME_BYTES_MAX: Final = 512  # one session name in UTF-8
BATCH_MESSAGES_MAX: Final = 10_000  # one append_many holds up the loop no longer than a group does
BATCH_BYTES_MAX: Final = 16 << 20  # content and meta of one append_many
PAGE_BYTES_MAX: Final = (1 << 20) - 1024  # items of a page, at least one: a reply stays within 1 MiB
PAGE_ITEMS_MAX: Final = 10_000  # `limit` is clamped to this
PAGE_ITEMS_DEFAULT: Final = 100
TAILS_MAX: Final = 10_000  # sessions asked for in one `tails`
EVENT_BYTES_MAX: Final = 64 << 10  # content and packed meta in an event; beyond, the message is elided
ID_MAX: Final = (1 << 63) - 1  # SQLite's and msgpack's signed 64 bits

CHUNK_BYTES: Final = (
    64 << 10
)  # a sealed chunk of packed messages: large enough to slice, small enough to copy
TAIL_MESSAGES_MAX: Final = (
    16  # messages of a session that a snapshot leaves unsealed: a fold copies none of them
)
SESSIONS_PER_LEAF: Final = 1024  # sessions copied when one of them changes between snapshots
