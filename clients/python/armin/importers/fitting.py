"""What Armin can hold: checks made before anything is sent, so that what does not fit is stored otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from armin.results import NewMessage
from armin_broker.protocol import CONTENT_BYTES_MAX, ID_MAX, META_BYTES_MAX, META_DEPTH_MAX

Meta = dict[str, Any]

_MESSAGE_NODES: Final = 7  # the map of a message and its three members, as the engine counts values


def is_text(text: str) -> bool:
    """Whether it is valid Unicode: no lone surrogate."""
    return text.isascii() or text_bytes(text) is not None


def text_bytes(text: str) -> int | None:
    """Its size in UTF-8, or None where it has none."""
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return None


def compact(value: object) -> str:
    """JSON text without spaces, every script as it is; lone surrogates stay lone surrogates."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def readable_json(value: object) -> str:
    """JSON text that is valid Unicode and gives back an equal value: as readable as that allows."""
    text = compact(value)
    return text if is_text(text) else json.dumps(value, separators=(",", ":"))


def canonical(value: object) -> str:
    """JSON text that is the same for equal JSON, whatever the order of its keys; 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def content_fits(content: str) -> bool:
    """Whether it can be a message's content."""
    size = text_bytes(content)
    return size is not None and size <= CONTENT_BYTES_MAX


def meta_fits(meta: Meta) -> bool:
    """Whether it can be the meta of a message or a session."""
    if not _speakable(meta, 1):
        return False
    size = text_bytes(compact(meta))
    return size is not None and size <= META_BYTES_MAX


def _speakable(value: object, depth: int) -> bool:
    if isinstance(value, str | bool) or value is None:
        return True
    if isinstance(value, int):
        return -ID_MAX - 1 <= value <= ID_MAX
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        value = list(value.values())
    return (
        isinstance(value, list)
        and depth <= META_DEPTH_MAX
        and all(_speakable(item, depth + 1) for item in value)
    )


def fits(message: NewMessage) -> bool:
    """Whether Armin takes this message, whatever its role."""
    return content_fits(message.content) and (message.meta is None or meta_fits(message.meta))


def weigh(message: NewMessage) -> tuple[int, int]:
    """What a message adds to a batch: bytes, not less than the engine counts, and values."""
    size = text_bytes(message.content) or 0
    if message.meta is None:
        return size, _MESSAGE_NODES
    # packed, a number can take a few bytes more than its JSON text: at most 9 for each value
    nodes = count_values(message.meta)
    return size + len(compact(message.meta).encode()) + 8 * nodes, _MESSAGE_NODES + nodes


def count_values(value: object) -> int:
    """Keys, items, maps and arrays in a value, itself included."""
    if isinstance(value, Mapping):
        return 1 + sum(1 + count_values(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(count_values(item) for item in value)
    return 1
