"""What can be asked of the engine: each function makes one call, without sending it.

The sync and the asyncio client share these, so that they cannot differ in more than how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgpack

from armin import pages, replies
from armin.errors import BadRequest, TooLarge
from armin.heads import Head
from armin.keys import new_key
from armin.results import (
    Appended,
    AppendedMany,
    BackupReport,
    BadRow,
    Closed,
    EventPage,
    Health,
    Hello,
    MessagePage,
    NewMessage,
    Refreshed,
    Session,
    SessionPage,
    SnapshotPage,
    Tails,
    VerifyReport,
)
from armin_broker.protocol import COMMAND_BYTES_MAX

T = TypeVar("T")
Received: TypeAlias = dict[str, Any] | T  # the fields of a reply that says ok, or its result already

WRITES: Final = frozenset(
    {
        *("create_session", "append", "append_many", "close_session"),
        *("create_group", "lease", "ack", "nack", "extend", "requeue", "discard", "drop_group"),
    }
)
KEYED: Final = frozenset({"create_session", "append", "append_many", "close_session"})  # or need no key
IN_LINE: Final = frozenset({"append", "append_many", "close_session"})  # in order within their session
# What a worker sends again by itself, or what another answer comes of the second time.
ONCE: Final = frozenset({"backup", "lease", "nack", "extend", "requeue", "discard", "drop_group"})


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One command and how to read its reply. Fields that are None were not given and are not sent.

    page: makes the result of a whole reply, in less time, where it can.
    """

    op: str
    fields: dict[str, Any]
    parse: Callable[[replies.Fields], T]
    page: Callable[[bytes], T | None] | None = None

    @property
    def writes(self) -> bool:
        """Whether it would change anything."""
        return self.op in WRITES

    @property
    def key(self) -> str | None:
        """The idempotency key of a write that has one."""
        return self.fields.get("key")

    @property
    def outlasts(self) -> bool:
        """Whether it may wait for the next engine where this one is shutting down."""
        return self.op in KEYED

    @property
    def line(self) -> int | None:
        """The session whose writes stand in line with this one."""
        session_id = self.fields.get("session_id") if self.op in IN_LINE else None
        return session_id if type(session_id) is int else None

    @property
    def closes(self) -> bool:
        """Whether it closes its session, which a key is not needed for."""
        return self.op == "close_session"

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again without doing anything twice."""
        return self.op not in ONCE or self.fields.get("job") is not None

    def encode(self) -> bytes:
        """The command as it goes over the wire.

        Raises:
            BadRequest: a value that msgpack cannot say; `field` names it.
            TooLarge: the engine would close the connection instead of answering.
        """
        given = {name: value for name, value in self.fields.items() if value is not None}
        try:
            packed: bytes = msgpack.packb({"op": self.op, **given})
        except (TypeError, ValueError, OverflowError) as error:
            raise _unspeakable(given, error) from None
        for name, meta in _metas(given):
            if not _keys_are_strings(meta):
                raise BadRequest(f"{name} cannot be sent: all its keys must be strings", field=name)
        if len(packed) > COMMAND_BYTES_MAX:
            heaviest = max(given, key=lambda name: len(msgpack.packb(given[name])))
            raise TooLarge(
                f"the command is {len(packed)} bytes, over the limit of {COMMAND_BYTES_MAX}",
                field=heaviest,
                limit=COMMAND_BYTES_MAX,
            )
        return packed

    def decode(self, reply: bytes) -> T:
        """The result that a reply holds.

        Raises:
            ArminError: what the reply says went wrong, or ProtocolError.
        """
        return self.result(self.receive(reply))

    def receive(self, reply: bytes) -> Received[T]:
        """What a reply holds.

        Raises:
            ArminError: what the reply says went wrong, or ProtocolError.
        """
        page = None if self.page is None else self.page(reply)
        return replies.decode(reply) if page is None else page

    def result(self, received: Received[T]) -> T:
        """The result that was received.

        Raises:
            ProtocolError: a field is not as it should be.
        """
        return self.parse(received) if isinstance(received, dict) else received


def _unspeakable(fields: Mapping[str, Any], error: Exception) -> BadRequest:
    """Name the field that could not be packed, as the engine's own checks would name it."""
    field = next(_faults(fields), "fields")
    return BadRequest(f"{field} cannot be sent: {_why(error)}", field=field)


def _faults(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if name == "messages":
            for index, message in enumerate(value):
                yield from (f"messages[{index}].{fault}" for fault in _faults(message))
        elif not _packs(value):
            yield name


def _packs(value: object) -> bool:
    try:
        msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _metas(fields: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Each meta of a command, by the name of its field."""
    if "meta" in fields:
        yield "meta", fields["meta"]
    for index, message in enumerate(fields.get("messages", ())):
        if "meta" in message:
            yield f"messages[{index}].meta", message["meta"]


def _keys_are_strings(value: object) -> bool:
    """Whether they are, at every depth; the value was packed, so it ends."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_keys_are_strings, value.values()))
    return not isinstance(value, list | tuple) or all(map(_keys_are_strings, value))


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return f"it holds a lone surrogate (index {error.start} of a string)"
    if isinstance(error, OverflowError):
        return "it holds an integer beyond 64 bits"
    return str(error)


# --- the engine -----------------------------------------------------------------------------------


def hello() -> Call[Hello]:
    """Who the engine is and what it can do."""
    return Call("hello", {}, replies.hello)


def ping() -> Call[int]:
    """Whether it answers."""
    return Call("ping", {}, replies.position)


def sync(token: str) -> Call[int]:
    """Ask for `token` on the live socket."""
    return Call("sync", {"token": token}, replies.position)


def stats() -> Call[dict[str, Any]]:
    """Counters and gauges."""
    return Call("stats", {}, replies.statistics)


def health() -> Call[Health]:
    """Whether it can do its work."""
    return Call("health", {}, replies.health)


def refresh_snapshot() -> Call[Refreshed]:
    """Fold the delta into the next snapshot."""
    return Call("refresh_snapshot", {}, replies.refreshed)


def verify(job: int | None = None, expect: Head | None = None) -> Call[replies.Fields]:
    """Begin a comparison of memory and file, or ask how one gets on."""
    at = None if expect is None else expect.position
    return Call("verify", {"job": job, "at": at}, lambda fields: fields)


def backup(name: str | None = None, job: int | None = None) -> Call[replies.Fields]:
    """Begin a backup, or ask how one gets on."""
    return Call("backup", {"name": name, "job": job}, lambda fields: fields)


# --- writes ---------------------------------------------------------------------------------------


def create_session(name: str | None, meta: Mapping[str, Any] | None, key: str | None = None) -> Call[Session]:
    """Create a session, or find the one of this name."""
    fields = {"name": name, "meta": _plain(meta), "key": _key(key)}
    return Call("create_session", fields, replies.session)


def _key(key: str | None) -> str:
    return new_key() if key is None else key


def append(
    session_id: int,
    role: str,
    content: str,
    meta: Mapping[str, Any] | None,
    expect_seq: int | None,
    key: str | None = None,
) -> Call[Appended]:
    """Append one message."""
    fields = {
        "session_id": session_id,
        "role": role,
        "content": content,
        "meta": _plain(meta),
        "expect_seq": expect_seq,
        "key": _key(key),
    }
    return Call("append", fields, replies.appended)


def append_many(
    session_id: int,
    messages: Iterable[Mapping[str, Any] | NewMessage],
    expect_seq: int | None,
    key: str | None = None,
) -> Call[AppendedMany]:
    """Append messages to one session, all or nothing."""
    batch = [_new_message(message, index) for index, message in enumerate(messages)]
    fields = {"session_id": session_id, "messages": batch, "expect_seq": expect_seq, "key": _key(key)}
    return Call("append_many", fields, replies.appended_many)


def _new_message(message: Mapping[str, Any] | NewMessage, index: int) -> dict[str, Any]:
    if isinstance(message, NewMessage):
        message = {"role": message.role, "content": message.content, "meta": message.meta}
    if not hasattr(message, "keys"):
        name = f"messages[{index}]"
        raise BadRequest(f"{name} is a {type(message).__name__}, not a NewMessage or a map", field=name)
    fields = dict(message)
    if "meta" in fields and fields["meta"] is None:
        del fields["meta"]
    return fields


def _plain(meta: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A plain dict of whatever mapping the caller has; a list of pairs is none."""
    if meta is None:
        return None
    if not hasattr(meta, "keys"):
        raise BadRequest(f"meta is a {type(meta).__name__}, not a map", field="meta")
    return dict(meta)


def close_session(session_id: int) -> Call[Closed]:
    """Close a session for good."""
    return Call("close_session", {"session_id": session_id}, replies.closed)


# --- reads ----------------------------------------------------------------------------------------


def session(session_id: int | None, name: str | None) -> Call[Session]:
    """One session, by id or by name."""
    return Call("session", {"session_id": session_id, "name": name}, replies.session)


def sessions(
    after: int | None, before: int | None, limit: int | None, closed: bool | None
) -> Call[SessionPage]:
    """A page of sessions."""
    fields = {"after": after, "before": before, "limit": limit, "closed": closed}
    return Call("sessions", fields, replies.session_page)


def tails(session_ids: Iterable[int]) -> Call[Tails]:
    """Where sessions end."""
    return Call("tails", {"session_ids": list(session_ids)}, replies.tails)


def read(
    session_id: int,
    after: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    reason: str | None = None,
    epoch: str | None = None,
) -> Call[MessagePage]:
    """A page of a session's messages."""
    fields = {
        "session_id": session_id,
        "after": after,
        "before": before,
        "limit": limit,
        "reason": reason,
        "epoch": epoch,
    }
    return Call("read", fields, replies.message_page, pages.message_page)


def snapshot(session_id: int, after: int | None, limit: int | None) -> Call[SnapshotPage]:
    """A page of what the snapshot holds of a session."""
    fields = {"session_id": session_id, "after": after, "limit": limit}
    return Call("snapshot", fields, replies.snapshot_page, pages.snapshot_page)


def delta(
    session_id: int, after: int | None, limit: int | None, snapshot_position: int | None
) -> Call[SnapshotPage]:
    """A page of what a session gained since the snapshot."""
    fields = {
        "session_id": session_id,
        "after": after,
        "limit": limit,
        "snapshot_position": snapshot_position,
    }
    return Call("delta", fields, replies.snapshot_page, pages.snapshot_page)


def log(after: int | None = None, limit: int | None = None, epoch: str | None = None) -> Call[EventPage]:
    """A page of the whole log."""
    return Call("log", {"after": after, "limit": limit, "epoch": epoch}, replies.event_page, pages.event_page)


# --- verify and backup -----------------------------------------------------------------------------


def backup_report(state: replies.Fields) -> BackupReport | None:
    """The report of a backup that is done, None for one that goes on."""
    if state.get("done") is not True:
        return None
    return BackupReport(
        replies.text(state, "name"),
        replies.integer(state, "bytes"),
        replies.integer(state, "backup_position"),
        replies.text(state, "head"),
        replies.integer(state, "duration_ms"),
    )


def verify_report(
    state: replies.Fields, progress: Callable[[int, int], object] | None, expect: Head | None = None
) -> VerifyReport | None:
    """The report of a comparison that is done, None for one that goes on; tells `progress` either way."""
    done = state.get("done") is True
    if progress is not None and "total" in state:
        progress(replies.integer(state, "checked"), replies.integer(state, "total"))
    return _report(state, expect) if done else None


def _report(state: replies.Fields, expect: Head | None) -> VerifyReport:
    """The engine sends no more than so many differences, and their count."""
    differences = [str(difference) for difference in replies.array(state, "differences")]
    unsaid = state.get("differences_count", 0) - len(differences)
    if unsaid > 0:
        differences.append(f"and {unsaid:,} more")
    position = replies.integer(state, "verified_position" if "verified_position" in state else "position")
    equal = replies.truth(state, "equal")
    if expect is not None:
        lacking = expect.difference(position, replies.text_or_none(state, "digest"))
        if lacking is not None:
            equal = False
            differences.append(lacking)
    return VerifyReport(
        equal,
        position,
        replies.integer(state, "checked"),
        tuple(differences),
        replies.text_or_none(state, "head"),
        _bad_row(state),
    )


def _bad_row(state: replies.Fields) -> BadRow | None:
    row = replies.table_or_none(state, "first_bad")
    names = ("position", "session_id", "message_id", "seq")
    return None if row is None else BadRow(*(replies.integer(row, name) for name in names))
