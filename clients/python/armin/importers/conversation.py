"""A conversation on its way into Armin: one session, its name, its meta, its messages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from armin.importers.fitting import Meta, canonical, content_fits, meta_fits, readable_json
from armin.importers.json_text import Value
from armin.results import NewMessage

DIGEST_CHARACTERS: Final = 16  # 64 bits in hex: enough to tell apart what has the same id or place
_ID_BYTES_MAX: Final = 400  # of the id in a name, which may have 512 bytes with format and digest
_FILE_CHARACTERS_MAX: Final = 256  # of a file name that is kept; as JSON, each takes 6 bytes at most
_HEAD_BYTES_MAX: Final = 2048  # what format, place and file name take in a meta at most
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Where these stand in a foreign message or conversation, they are kept under meta.source, by these names.
SOURCE_FIELDS: Final = ("id", "created_at", "created", "create_time", "timestamp")

# meta.source.holds: the content (or meta.source.original) is the JSON text of a whole original message, or
# of all that the original conversation had besides its messages.
HOLDS: Final = "holds"
HOLDS_MESSAGE: Final = "message"
HOLDS_CONVERSATION: Final = "conversation"


class Rejected(Exception):
    """This conversation cannot be imported; the text says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The session of an Armin database that a conversation was exported from."""

    database: str
    session_id: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """What becomes one session.

    `messages` can be gone through once. `count`, where known, is how many there must be. `closed` says
    whether the session is closed once they are all there. `check_meta` says whether a session of this
    name must have this `meta`. `index` and `place` say where in the file it stands.
    """

    index: int
    place: str
    name: str
    meta: Meta | None
    messages: Iterable[NewMessage]
    count: int | None = None
    closed: bool = False
    check_meta: bool = False
    origin: Origin | None = None


def session_name(format_name: str, found: Value, own_id: object) -> str:
    """`FORMAT:ID:DIGEST`, or with the place of a conversation that has no id of its own.

    At most 512 bytes: a long id is cut and followed by a digest of itself. Control characters become `_`.
    """
    own = own_id if isinstance(own_id, str) else str(own_id) if type(own_id) is int else ""
    own = _CONTROLS.sub("_", own.encode("utf-8", "replace").decode()) or str(found.index)
    if len(own.encode()) > _ID_BYTES_MAX:
        own = own.encode()[:_ID_BYTES_MAX].decode("utf-8", "ignore") + "~" + digest(own)
    return f"{format_name}:{own}:{digest(found.value if found.key is None else [found.key, found.value])}"


def digest(value: object) -> str:
    """A short digest of a JSON value, the same for equal values."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:DIGEST_CHARACTERS]


def source_of(meta: Meta | None) -> dict[str, Any]:
    """The map under meta.source, or an empty one."""
    source = None if meta is None else meta.get("source")
    return source if isinstance(source, dict) else {}


def split_source(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Foreign fields as they go into a meta: those that stand under `source`, and the rest beside it.

    A foreign field that is itself called `source` goes to `source.fields`. `join_source` undoes it.
    """
    source: dict[str, Any] = {name: fields[name] for name in SOURCE_FIELDS if name in fields}
    rest = {name: value for name, value in fields.items() if name not in source and name != "source"}
    if "source" in fields:
        source["fields"] = {"source": fields["source"]}
    return source, rest


def join_source(meta: Meta | None) -> dict[str, Any]:
    """The foreign fields that `split_source` made this meta of."""
    if meta is None:
        return {}
    source = meta.get("source")
    if not isinstance(source, dict):  # not ours: a field of the caller's own
        return dict(meta)
    fields = {name: value for name, value in meta.items() if name != "source"}
    fields |= {name: source[name] for name in SOURCE_FIELDS if name in source}
    inner = source.get("fields")
    return fields | inner if isinstance(inner, dict) else fields


def session_head(
    format_name: str, found: Value, fields: dict[str, Any], file: str | None
) -> tuple[Meta, list[NewMessage]]:
    """A session's meta out of all that the conversation had besides its messages.

    Where that does not fit into a meta, it becomes the content of a message before the others.

    Raises:
        Rejected: it does not even fit into a message.
    """
    head: dict[str, Any] = {"format": format_name, "place": found.place}
    if file is not None and content_fits(file):
        head["file"] = file[-_FILE_CHARACTERS_MAX:]
    source, rest = split_source(fields)
    # the same conversation must make the same messages in whatever file and place it is found
    widest = {"source": {"head": "x" * _HEAD_BYTES_MAX, **source}, **rest}
    meta = {"source": {**head, **source}, **rest}
    if meta_fits(widest) and canonical(join_source(meta)) == canonical(fields):
        return meta, []
    return {"source": head}, [held(HOLDS_CONVERSATION, "system", fields)]


def held(what: str, role: str, original: object) -> NewMessage:
    """A message whose content is `original` as JSON text.

    Raises:
        Rejected: the text is over the content limit.
    """
    content = readable_json(original)
    if not content_fits(content):
        size = len(content.encode())
        raise Rejected(f"a {what} is {size} bytes as JSON, over the limit of 16 MiB for a message's content")
    return NewMessage(role, content, {"source": {HOLDS: what}})
