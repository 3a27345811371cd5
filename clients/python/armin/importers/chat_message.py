"""A foreign chat message in Armin, and back: what comes back is equal to what went in.

Text becomes the content, so that a person who reads the session sees it. The other fields become the
meta, under their own names; meta.source says how to undo what had to be changed:

    source.role      the original role, where Armin's name for it is another one (`developer`, `function`)
    source.content   `null`, `missing`, or the original list of parts: for a part of text the length of
                     its text in characters (Unicode code points), the texts themselves being joined by
                     newlines in the content
    source.id, ...   its id and time, see conversation.SOURCE_FIELDS
    source.holds     `message`: nothing of this sufficed, the whole original stands as JSON text, in
    source.original  where that fits and the content can be its text, else in the content
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from armin.importers.conversation import (
    HOLDS,
    HOLDS_MESSAGE,
    held,
    join_source,
    source_of,
    split_source,
)
from armin.importers.fitting import Meta, canonical, fits, readable_json
from armin.results import NewMessage

NULL: Final = "null"
MISSING: Final = "missing"


@dataclass(frozen=True, slots=True)
class Shape:
    """How a format writes a message: its two keys, and its roles beside Armin's.

    `roles` gives Armin's role for each of the format's; a role not in it is taken for `user`. `names`
    gives the format's role for each of Armin's where nothing else was noted.
    """

    role_key: str
    content_key: str
    roles: Mapping[str, str]
    names: Mapping[str, str]


def to_armin(shape: Shape, original: object) -> NewMessage:
    """The message that stands for `original`, any JSON value.

    Raises:
        Rejected: it does not fit, not even as JSON text.
    """
    if isinstance(original, dict):
        message = _readable(shape, original)
        if message is not None and fits(message) and _gives_back(shape, message, original):
            return message
        message = _with_original(shape, original)
        if message is not None and fits(message):
            return message
    return held(HOLDS_MESSAGE, _role(shape, original), original)


def from_armin(shape: Shape, role: str, content: str, meta: Meta | None) -> Any:
    """The original of a message; for one that never was foreign, what it would look like there."""
    source = source_of(meta)
    if source.get(HOLDS) == HOLDS_MESSAGE:
        try:
            return json.loads(source.get("original", content))
        except (TypeError, ValueError, RecursionError):
            pass  # not ours: somebody else's mark
    message = {shape.role_key: source.get("role", shape.names[role])}
    mark = source.get("content")
    if mark != MISSING:
        message[shape.content_key] = _content(content, mark)
    return message | join_source(meta)


def _role(shape: Shape, original: object) -> str:
    name = original.get(shape.role_key) if isinstance(original, dict) else None
    return shape.roles.get(name, "user") if isinstance(name, str) else "user"


def _gives_back(shape: Shape, message: NewMessage, original: dict[str, Any]) -> bool:
    if message.meta is None and len(original) == 2:
        return True  # role and text, nothing else: by far the most
    return canonical(from_armin(shape, message.role, message.content, message.meta)) == canonical(original)


def _readable(shape: Shape, original: dict[str, Any]) -> NewMessage | None:
    """Text in the content, the rest in the meta; None where that cannot be undone."""
    name = original.get(shape.role_key)
    if not isinstance(name, str):
        return None
    role = _role(shape, original)
    fields = {key: value for key, value in original.items() if key not in (shape.role_key, shape.content_key)}
    source, rest = split_source(fields)
    if name != shape.names[role]:
        source["role"] = name
    text: object = original.get(shape.content_key, MISSING)
    if shape.content_key not in original:
        content, source["content"] = "", MISSING
    elif text is None:
        content, source["content"] = "", NULL
    elif isinstance(text, list):
        content, source["content"] = _join_parts(text)
    elif isinstance(text, str):
        content = text
    else:
        return None
    meta = {"source": source, **rest} if source else rest
    return NewMessage(role, content, meta or None)


def _with_original(shape: Shape, original: dict[str, Any]) -> NewMessage | None:
    """Text in the content, the whole original as JSON text in the meta; None where it has no text."""
    text = original.get(shape.content_key)
    if not isinstance(text, str):
        return None
    source = {HOLDS: HOLDS_MESSAGE, "original": readable_json(original)}
    return NewMessage(_role(shape, original), text, {"source": source})


def _join_parts(parts: list[Any]) -> tuple[str, list[Any]]:
    """The texts of a list of parts, and the list with their lengths instead of them."""
    texts, marks = [], []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if isinstance(text, str):
            texts.append(text)
            marks.append(
                {name: value for name, value in part.items() if name != "text"} | {"length": len(text)}
            )
        else:
            marks.append(part)
    return "\n".join(texts), marks


def _content(content: str, mark: object) -> Any:
    """The original content: undoes `_join_parts`."""
    if mark == NULL:
        return None
    if not isinstance(mark, list):
        return content
    parts, begin = [], 0
    for part in mark:
        length = part.get("length") if isinstance(part, dict) and part.get("type") == "text" else None
        if isinstance(length, int):
            text = content[begin : begin + length]
            parts.append({name: value for name, value in part.items() if name != "length"} | {"text": text})
            begin += length + 1
        else:
            parts.append(part)
    return parts
