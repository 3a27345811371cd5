"""Armin's own export, `export/1`: JSON Lines, each an object with one of these keys.

    {"armin": "export/1", "database": ..., "epoch": ..., "position": ...}                first
    {"session": {"id", "name"?, "closed", "created_at", "seq", "meta"?}}                 then a session
    {"message": {"id", "session_id", "seq", "role", "content", "created_at", "meta"?}}   and its messages
    {"end": {"sessions": ..., "messages": ...}}                                          last

Sessions come in the order of their ids, messages in that of their seqs, as many as the session's `seq`
says. A file without the last line was cut off. Exports may be put one behind the other.

What an import makes of it. A session keeps its name, its meta and whether it is closed, a message its
role, content and meta; ids and times are the importing engine's own. The original ones are kept under
`meta.source.armin`: `{id, created_at}`, for a session also `database`. The first origin stays: what was
imported, exported and imported again still names the database it was first written in, once. Where a meta
has no room for it, or has a `source` that is no map, it is left out.

A session without a name gets the name `armin:DATABASE:ID`, so that importing twice adds nothing. In the
database that it came from, it is found by its id instead, even after a journey through another engine.
"""

from __future__ import annotations

import re
from typing import Any, Final

from armin.importers.conversation import Origin, source_of
from armin.importers.fitting import Meta, meta_fits
from armin.results import Message, Session

ARMIN: Final = "armin"
VERSION: Final = "export/1"

_ORIGIN_NAME: Final = re.compile(r"armin:(.+):([1-9][0-9]{0,18})")


# --- lines ----------------------------------------------------------------------------------------


def head_line(database: str, epoch: str, position: int) -> dict[str, Any]:
    """The first line."""
    return {"armin": VERSION, "database": database, "epoch": epoch, "position": position}


def session_line(session: Session) -> dict[str, Any]:
    """A session's line; exactly `seq` lines of messages follow."""
    fields: dict[str, Any] = {"id": session.id, "name": session.name, "closed": session.closed}
    fields |= {"created_at": session.created_at, "seq": session.seq, "meta": session.meta}
    return {"session": {key: value for key, value in fields.items() if value is not None}}


def message_line(message: Message) -> dict[str, Any]:
    """A message's line."""
    fields: dict[str, Any] = {"id": message.id, "session_id": message.session_id, "seq": message.seq}
    fields |= {"role": message.role, "content": message.content, "created_at": message.created_at}
    return {"message": fields if message.meta is None else {**fields, "meta": message.meta}}


def end_line(sessions: int, messages: int) -> dict[str, Any]:
    """The last line."""
    return {"end": {"sessions": sessions, "messages": messages}}


# --- origins --------------------------------------------------------------------------------------


def with_origin(meta: Meta | None, origin: dict[str, Any]) -> Meta | None:
    """The meta with `origin` under source.armin, unless it has one or has no room for it."""
    source = {} if meta is None else meta.get("source", {})
    if not isinstance(source, dict) or ARMIN in source:
        return meta
    widened = {**(meta or {}), "source": {**source, ARMIN: origin}}
    return widened if meta_fits(widened) else meta


def without_origin(meta: Meta | None) -> Meta | None:
    """The meta as it was before `with_origin`; an empty one counts as none."""
    source = source_of(meta)
    if meta is None or ARMIN not in source:
        return meta or None
    rest = {key: value for key, value in source.items() if key != ARMIN}
    return {key: value for key, value in {**meta, "source": rest}.items() if key != "source" or rest} or None


def origin_name(database: str, session_id: int) -> str:
    """The name under which a nameless session is imported elsewhere."""
    return f"{ARMIN}:{database}:{session_id}"


def origin_of(name: str, created_at: int, meta: Meta | None) -> Origin | None:
    """What `origin_name` and `with_origin` noted of a session; None for one with a name of its own."""
    noted = _ORIGIN_NAME.fullmatch(name)
    if noted is None:
        return None
    origin = source_of(meta).get(ARMIN)
    first = origin.get("created_at") if isinstance(origin, dict) else None
    return Origin(noted[1], int(noted[2]), first if isinstance(first, int) else created_at)
