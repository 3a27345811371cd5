"""The wire's verbs: each parses its fields once, and answers from what it parsed.

Order of work for each verb: shape, limits, then act.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

from armin_broker import group_commands, protocol, replies
from armin_broker.decode import decode
from armin_broker.parsed import Barrier, Parsed, Pipeline, Read, Service, Write, new_write
from armin_broker.sender import TRUSTED, Sender
from armin_engine import limits, records
from armin_engine.armin import append_command
from armin_engine.errors import BadRequest, CommandError, CursorInvalid, EngineError


class UnknownOp(CommandError):
    """The command names no verb of this version."""

    code: ClassVar[str] = "unknown_op"


class NotAuthorized(CommandError):
    """The sender's key does not allow this; names the op, the role that it needs and the key's."""

    code: ClassVar[str] = "not_authorized"


class ShuttingDown(EngineError):
    """The engine is going; the command was not taken."""

    code: ClassVar[str] = "shutting_down"
    retry = True


class InternalFault(EngineError):
    """Our own bug; it is in the daemon's log."""

    code: ClassVar[str] = "internal"


_Fields = dict[str, Any]

_KNOWN: Final = {
    op: frozenset(("op", *fields.required, *fields.optional)) for op, fields in protocol.OPS.items()
}
_FORBIDDEN: Final = {
    role: frozenset(op for op, fields in protocol.OPS.items() if fields.role not in may)
    for role, may in (
        ("", ()),
        *((role, protocol.KEY_ROLES[: rank + 1]) for rank, role in enumerate(protocol.KEY_ROLES)),
    )
}
_PIPELINED: Final = frozenset(("append", "append_many", "close_session"))  # their replies are short
_TOKEN: Final = re.compile(rf"[a-z0-9]{{1,{protocol.SYNC_TOKEN_MAX}}}")
_BACKUP_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REASON_BYTES_MAX: Final = 64
_EPOCH_BYTES_MAX: Final = 64
_NAME_SHOWN: Final = 60  # characters of a caller's own name for something, quoted in an error


def parse(payload: bytes, sender: Sender = TRUSTED) -> Parsed:
    """The typed command in a frame. Raises a CommandError."""
    return _parsed(decode(payload), sender)


def _parsed(fields: _Fields, sender: Sender = TRUSTED) -> Parsed:
    op = fields.get("op")
    if type(op) is not str:
        raise BadRequest("op must be a string", field="op")
    known = _KNOWN.get(op)
    if known is None:
        raise UnknownOp(f"there is no op {op[:_NAME_SHOWN]!r} in {protocol.PROTOCOL}", field="op")
    if sender.role is not None:
        _check_allowed(op, sender.role, sender.name)
    if not known.issuperset(fields):
        unknown = min(fields.keys() - known)
        raise BadRequest(f"{op} has no field {unknown[:_NAME_SHOWN]!r}", field=unknown[:_NAME_SHOWN])
    for name in protocol.OPS[op].required:
        if name not in fields:
            raise BadRequest(f"{op} needs the field {name}", field=name)
    if op == "hello":
        return _hello(sender.role or protocol.ADMIN)
    return _VERBS[op](fields)


def _check_allowed(op: str, role: str, name: str) -> None:
    if op not in _FORBIDDEN[role]:
        return
    needed = protocol.OPS[op].role
    holds = f"the role of the key {name} is {role}" if role else "this key is not, or no longer, known here"
    raise NotAuthorized(f"{op} needs a key with the role {needed}; {holds}", field="op", reason="role")


def _hello(role: str) -> Read:
    return Read(lambda service: replies.ok(service.armin.position, service.hello(role)))


def _ping(fields: _Fields) -> Read:
    return Read(lambda service: replies.ok(service.armin.position, {}))


def _create_session(fields: _Fields) -> Write:
    name, meta, key = fields.get("name"), fields.get("meta"), fields.get("key")
    command = records.CreateSession(
        None if name is None else records.check_name(name),
        None if meta is None else records.check_meta(meta),
        None if key is None else records.check_key(key, "key"),
    )
    return Write(command, replies.created)


def _append(fields: _Fields) -> Write:
    message = records.new_message(fields["role"], fields["content"], fields.get("meta"))
    return Write(_append_of((message,), fields), replies.appended)


def _append_many(fields: _Fields) -> Write:
    if type(fields["messages"]) is not list:
        raise BadRequest("messages must be an array", field="messages")
    messages = records.check_messages(fields["messages"])
    return Write(_append_of(messages, fields), replies.appended_many)


def _append_of(messages: tuple[records.NewMessage, ...], fields: _Fields) -> records.Append:
    return append_command(
        fields["session_id"], messages, fields.get("expect_seq"), fields.get("key"), fields.get("after_key")
    )


def _close_session(fields: _Fields) -> Write:
    return Write(records.CloseSession(records.check_id(fields["session_id"], "session_id")), replies.closed)


def _pipeline(fields: _Fields) -> Pipeline:
    commands = fields["commands"]
    if type(commands) is not list or not commands:
        raise BadRequest("commands must be an array of at least one command", field="commands")
    records.check_count(len(commands), "commands", "commands", protocol.PIPELINE_COMMANDS_MAX)
    # One error for all of it: an element costs its sender one byte, an error in its place a hundred.
    if set(map(type, commands)) != {dict}:
        raise BadRequest("each command of a pipeline must be a map", field="commands")
    return Pipeline(tuple([_part(command) for command in commands]))


def _part(command: _Fields) -> Write | EngineError:
    """One command of a pipeline; what is wrong with it concerns it alone."""
    try:
        op = command.get("op")
        if op == "append" and (plain := records.plain_append(command)) is not None:
            return new_write((plain, replies.appended))
        if type(op) is str and op in _KNOWN and op not in _PIPELINED:
            raise BadRequest(f"{op} cannot be part of a pipeline", field="op")
        parsed = _parsed(command)
    except EngineError as error:
        return error.with_traceback(None)  # which holds the command; there may be many such errors
    assert isinstance(parsed, Write), "all that may be part of a pipeline are writes"
    return parsed


def _session(fields: _Fields) -> Read:
    session_id, name = fields.get("session_id"), fields.get("name")
    if (session_id is None) == (name is None):
        raise BadRequest("session needs either session_id or name", field="session_id")
    if session_id is not None:
        records.check_id(session_id, "session_id")
    else:
        records.check_name(name)

    def answer(service: Service) -> bytes:
        info = service.armin.session(session_id, name=name)
        return replies.session(service.armin.position, info.pack())

    return Read(answer)


def _sessions(fields: _Fields) -> Read:
    after, before, limit = _cursors(fields)
    closed = fields.get("closed")
    if closed is not None and type(closed) is not bool:
        raise BadRequest("closed must be true or false", field="closed")

    def answer(service: Service) -> bytes:
        page = service.armin.sessions(after=after, before=before, limit=limit, closed=closed)
        rest = {"more": page.more}
        return replies.page(service.armin.position, "sessions", page.packed, len(page.packed), rest)

    return Read(answer)


def _tails(fields: _Fields) -> Read:
    session_ids = fields["session_ids"]
    if type(session_ids) is not list:
        raise BadRequest("session_ids must be an array", field="session_ids")
    records.check_count(len(session_ids), "session_ids", "ids", limits.TAILS_MAX)
    for index, session_id in enumerate(session_ids):
        if type(session_id) is not int or not 1 <= session_id <= protocol.ID_MAX:
            records.check_id(session_id, f"session_ids[{index}]")  # it says what is wrong
    return Read(
        lambda service: replies.ok(service.armin.position, {"tails": service.armin.tails(session_ids)})
    )


def _read(fields: _Fields) -> Read:
    session_id = records.check_id(fields["session_id"], "session_id")
    after, before, limit = _cursors(fields)
    reason, epoch = fields.get("reason"), _epoch(fields)
    if reason is not None:
        records.check_text(reason, "reason", _REASON_BYTES_MAX)

    def answer(service: Service) -> bytes:
        _check_epoch(service, epoch)
        page = service.armin.read(session_id, after=after, before=before, limit=limit)
        if reason == "heal":
            service.count_heal()
        rest = {"more": page.more, "seq": page.seq, "closed": page.closed}
        return replies.page(service.armin.position, "messages", (page.packed,), page.count, rest)

    return Read(answer)


def _snapshot(fields: _Fields) -> Read:
    session_id = records.check_id(fields["session_id"], "session_id")
    after, _, limit = _cursors(fields)

    def answer(service: Service) -> bytes:
        return _snapshot_page(service, service.armin.read_snapshot(session_id, after=after or 0, limit=limit))

    return Read(answer)


def _delta(fields: _Fields) -> Read:
    session_id = records.check_id(fields["session_id"], "session_id")
    after, _, limit = _cursors(fields)
    snapshot_position = fields.get("snapshot_position")
    if snapshot_position is not None:
        records.check_cursor(snapshot_position, "snapshot_position")

    def answer(service: Service) -> bytes:
        page = service.armin.read_delta(
            session_id, after=after or 0, limit=limit, snapshot_position=snapshot_position
        )
        return _snapshot_page(service, page)

    return Read(answer)


def _snapshot_page(service: Service, page: Any) -> bytes:
    rest = {
        "more": page.more,
        "snapshot_position": page.snapshot_position,
        "snapshot_seq": page.snapshot_seq,
    }
    return replies.page(service.armin.position, "messages", (page.packed,), page.count, rest)


def _refresh_snapshot(fields: _Fields) -> Barrier:
    def act(service: Service) -> bytes:
        position = service.armin.refresh_snapshot()
        return replies.ok(service.armin.position, {"snapshot_position": position})

    return Barrier(act)


def _log(fields: _Fields) -> Read:
    after, _, limit = _cursors(fields)
    epoch = _epoch(fields)

    def answer(service: Service) -> bytes:
        _check_epoch(service, epoch)
        page = service.armin.events(after=after or 0, limit=limit)
        packed = [event.packed for event in page.events]
        return replies.page(service.armin.position, "events", packed, len(packed), {"more": page.more})

    return Read(answer)


def _sync(fields: _Fields) -> Barrier:
    token = fields["token"]
    if type(token) is not str or _TOKEN.fullmatch(token) is None:
        raise BadRequest(
            f"token must be 1 to {protocol.SYNC_TOKEN_MAX} of a-z and 0-9",
            field="token",
            limit=protocol.SYNC_TOKEN_MAX,
        )

    def act(service: Service) -> bytes:
        service.publish_sync(token)
        return replies.ok(service.armin.position, {})

    return Barrier(act)


def _stats(fields: _Fields) -> Read:
    return Read(lambda service: replies.ok(service.armin.position, service.stats()))


def _verify(fields: _Fields) -> Read:
    job = fields.get("job")
    if job is not None:
        records.check_id(job, "job")
    at = fields.get("at")
    if at is not None:
        records.check_cursor(at, "at")
    return Read(lambda service: replies.ok(service.armin.position, service.verify(job, at)))


def _health(fields: _Fields) -> Read:
    return Read(lambda service: replies.ok(service.armin.position, service.health()))


def _backup(fields: _Fields) -> Barrier:
    name, job = fields.get("name"), fields.get("job")
    if job is not None:
        records.check_id(job, "job")
    most = protocol.BACKUP_NAME_BYTES_MAX
    if name is not None and not (type(name) is str and len(name) <= most and _BACKUP_NAME.fullmatch(name)):
        raise BadRequest(
            f"name must be 1 to {most} of a-z, A-Z, 0-9, . _ -, and not begin with a dot",
            field="name",
            limit=most,
        )
    if name is not None and job is not None:
        raise BadRequest("give either name or job", field="job")
    return Barrier(lambda service: replies.ok(service.armin.position, service.backup(name, job)))


def _cursors(fields: _Fields) -> tuple[int | None, int | None, int]:
    """`after`, `before` and `limit`, as far as the verb has them."""
    after, before, limit = fields.get("after"), fields.get("before"), fields.get("limit")
    if after is not None:
        records.check_cursor(after, "after")
    if before is not None:
        records.check_id(before, "before")
    if after is not None and before is not None:
        raise BadRequest("give either after or before", field="before")
    return after, before, limits.PAGE_ITEMS_DEFAULT if limit is None else records.check_limit(limit)


def _epoch(fields: _Fields) -> str | None:
    """The epoch that the cursor belongs to, if it is said."""
    epoch: str | None = fields.get("epoch")
    if epoch is not None:
        records.check_text(epoch, "epoch", _EPOCH_BYTES_MAX)
    return epoch


def _check_epoch(service: Service, epoch: str | None) -> None:
    if epoch is not None and epoch != service.armin.identity.epoch:
        raise CursorInvalid(
            "the cursor is of another database, or of this one before it was restored", field="epoch"
        )


_VERBS: Final[dict[str, Callable[[_Fields], Parsed]]] = {
    "ping": _ping,
    "create_session": _create_session,
    "append": _append,
    "append_many": _append_many,
    "close_session": _close_session,
    "pipeline": _pipeline,
    "session": _session,
    "sessions": _sessions,
    "tails": _tails,
    "read": _read,
    "snapshot": _snapshot,
    "delta": _delta,
    "refresh_snapshot": _refresh_snapshot,
    "log": _log,
    "sync": _sync,
    "stats": _stats,
    "health": _health,
    "backup": _backup,
    "verify": _verify,
    **group_commands.VERBS,
}
