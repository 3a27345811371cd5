"""What the writers write: every message says who wrote it, so that the log can be held against records."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from armin.results import NewMessage

TAG: Final = "tag"
_END: Final = "|"  # of a tag in front of a text
_ROLES: Final = ("user", "assistant", "system", "tool")
_LARGE_CHARACTERS: Final = 100_000
_PLANES: Final = ((0x20, 0x7E), (0xA1, 0x2FF), (0x370, 0x1FFF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF))
_ODD: Final = ("\0", "\n", "\r\n", "\u2028", "\ufeff", "e\u0301", "\u202e", "\U0010fffd", "'); --")


def digest(*parts: object) -> str:
    """A short name for a value; the order of a map's keys counts."""
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:16]


def message(chance: random.Random, tag: str) -> NewMessage:
    """A message that carries `tag`: short or 100 kB, empty, of any script, with meta or without."""
    role = chance.choice(_ROLES)
    kind = chance.random()
    if kind < 0.06:
        return NewMessage(role, "", {TAG: tag})
    if kind < 0.08:
        return NewMessage(role, f"{tag}{_END}{chance.choice('xé漢')}" + "y" * _LARGE_CHARACTERS)
    text = _text(chance)
    if kind < 0.5:
        return NewMessage(role, text, {"n": chance.randrange(-5, 2**40), TAG: tag, "of": [1.5, None, text]})
    return NewMessage(role, f"{tag}{_END}{text}")


def _text(chance: random.Random) -> str:
    low, high = chance.choice(_PLANES)
    text = "".join(chr(chance.randint(low, high)) for _ in range(chance.randrange(1, 60)))
    return text + chance.choice(_ODD) if chance.random() < 0.3 else text


def message_digest(role: str, content: str, meta: Mapping[str, Any] | None) -> str:
    """The digest of a message as it is stored."""
    return digest(role, content, meta)


def tag_of(content: str, meta: Mapping[str, Any] | None) -> str | None:
    """The tag that a message carries; None if no writer of a campaign wrote it."""
    if meta is not None and isinstance(meta.get(TAG), str):
        tag: str = meta[TAG]
        return tag
    tag, end, _ = content.partition(_END)
    return tag if end else None
