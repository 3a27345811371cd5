"""The wire, version ``armin/1``: names, limits and shapes as pure data.

Nothing here opens a socket or knows the engine, so clients may import it. docs/protocol.md says the
same in words; a test holds the two together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

PROTOCOL: Final = "armin/1"

FEATURES: Final[tuple[str, ...]] = (
    "names",
    "meta",
    "keys",
    "groups",
    "pipeline",
    "roles",
    "health",
    "backup",
    "epochs",
)  # what a later daemon may have beyond the first armin/1
DURABILITY: Final = {"journal_mode": "wal", "synchronous": "full", "fullfsync": True}

ROLES: Final = ("user", "assistant", "system", "tool")

# What a key's holder may do; each may do what those before it may. Peers on ipc have the file's permissions
# behind them and may do everything, as do those on a TCP port without keys.
READER: Final = "reader"
WRITER: Final = "writer"
WORKER: Final = "worker"
ADMIN: Final = "admin"
KEY_ROLES: Final = (READER, WRITER, WORKER, ADMIN)

# Socket names: the files under an engine's directory, and the offset from the TCP port.
COMMANDS_SOCKET: Final = "commands.sock"
LIVE_SOCKET: Final = "live.sock"
EFFECTS_SOCKET: Final = "effects.sock"
LIVE_PORT_OFFSET: Final = 1
EFFECTS_PORT_OFFSET: Final = 2
IPC_PATH_BYTES_MAX: Final = 107  # sun_path of a Unix socket, less its final NUL

DATABASE_FILE: Final = "armin.db"
KEYS_DIRECTORY: Final = "keys"
KEY_FORMAT: Final = 1  # of the files of keys, in their field `armin_key`
KEY_FILE_BYTES_MAX: Final = 4096  # none of them is larger
KEY_CHARACTERS: Final = 40  # a Curve25519 key in Z85
BACKUPS_DIRECTORY: Final = "backups"  # under the engine's: what the op `backup` makes
LOCK_SUFFIX: Final = ".lock"  # DATABASE_FILE + this: first line the owner's pid, second its state

HEARTBEAT_MS: Final = 1000  # between two heartbeats on the live socket
HEARTBEAT_LOST_MS: Final = 3000  # this long without one: the engine is gone or unreachable
SYNC_RESEND_MS: Final = 50  # a follower repeats `sync` this often until it comes back live

# Limits. `hello` gives them under these names.
CONTENT_BYTES_MAX: Final = 16 << 20  # one message's content, UTF-8
META_BYTES_MAX: Final = 64 << 10  # one meta, as JSON text in UTF-8
META_DEPTH_MAX: Final = 16  # nested maps and arrays, the meta itself being the first
KEY_BYTES_MAX: Final = 256  # one idempotency key, UTF-8
NAME_BYTES_MAX: Final = 512  # one session name, UTF-8
BATCH_MESSAGES_MAX: Final = 10_000  # messages in one append_many
BATCH_BYTES_MAX: Final = 16 << 20  # content and meta of one append_many
PIPELINE_COMMANDS_MAX: Final = 1024  # commands in one pipeline
PAGE_BYTES_MAX: Final = 1 << 20  # one reply page, but at least one item
PAGE_ITEMS_MAX: Final = 10_000  # `limit` is clamped to this
PAGE_ITEMS_DEFAULT: Final = 100
TAILS_MAX: Final = 10_000  # sessions asked for in one `tails`
ENVELOPE_FRAMES_MAX: Final = 4
ENVELOPE_FRAME_BYTES_MAX: Final = 256
COMMAND_BYTES_MAX: Final = CONTENT_BYTES_MAX + (1 << 20)  # one frame; larger ones close the connection
COMMAND_NODES_MAX: Final = 1 << 18  # values in one decoded command: keys, items, maps and arrays
EVENT_BYTES_MAX: Final = 64 << 10  # content and packed meta in an event; beyond, the message is elided
SYNC_TOKEN_MAX: Final = 64
WAITING_BYTES_MAX: Final = 32 << 20  # replies that one peer does not take, 400 bytes for each included
GROUP_NAME_BYTES_MAX: Final = 128  # one worker group's name, UTF-8
GROUPS_MAX: Final = 256  # worker groups; every turn looks at each of them
LEASES_MAX: Final = 1000  # leases in one reply, and in one ack, nack or extend; `max` is clamped to this
LEASE_BYTES_MAX: Final = 64  # one lease as a string
TAKEN_MAX: Final = 10_000  # effects of one group that wait or are leased; then its cursor rests
POLLS_MAX: Final = 1024  # leases waited for at a time, over all groups
WAIT_MS_MAX: Final = 60_000  # how long a `lease` may wait
LEASE_MS_MIN: Final = 10
LEASE_MS_MAX: Final = 86_400_000  # one day; a `delay_ms` or `backoff_ms` is no longer either
ATTEMPTS_MAX: Final = 1000  # `max_attempts` of a group
REQUEST_BYTES_MAX: Final = 64  # the `request` token of a `lease`
NACK_REASON_BYTES_MAX: Final = 1024  # the `reason` of a `nack`
BACKUP_NAME_BYTES_MAX: Final = 128  # the file name of a backup
EFFECTS_BACKLOG_MAX: Final = 10_000  # effects kept while nobody pulls; what goes over it is dropped
EFFECTS_BACKLOG_BYTES_MAX: Final = 64 << 20
LIVE_BACKLOG_MAX: Final = 4096  # events that one subscriber does not take; what goes over it is dropped
SUBSCRIPTION_BYTES_MAX: Final = 512  # one frame to the live socket; a larger one closes the connection
CONNECTIONS_MAX: Final = 4096  # connections by ipc, and as many by tcp, over all sockets
ID_MAX: Final = (1 << 63) - 1

LIMITS: Final[dict[str, int]] = {
    "content_bytes": CONTENT_BYTES_MAX,
    "meta_bytes": META_BYTES_MAX,
    "meta_depth": META_DEPTH_MAX,
    "name_bytes": NAME_BYTES_MAX,
    "key_bytes": KEY_BYTES_MAX,
    "batch_messages": BATCH_MESSAGES_MAX,
    "batch_bytes": BATCH_BYTES_MAX,
    "pipeline_commands": PIPELINE_COMMANDS_MAX,
    "page_bytes": PAGE_BYTES_MAX,
    "page_items": PAGE_ITEMS_MAX,
    "tails": TAILS_MAX,
    "envelope_frames": ENVELOPE_FRAMES_MAX,
    "envelope_frame_bytes": ENVELOPE_FRAME_BYTES_MAX,
    "command_bytes": COMMAND_BYTES_MAX,
    "command_nodes": COMMAND_NODES_MAX,
    "event_bytes": EVENT_BYTES_MAX,
    "sync_token": SYNC_TOKEN_MAX,
    "waiting_bytes": WAITING_BYTES_MAX,
    "group_name_bytes": GROUP_NAME_BYTES_MAX,
    "groups": GROUPS_MAX,
    "leases": LEASES_MAX,
    "taken": TAKEN_MAX,
    "polls": POLLS_MAX,
    "wait_ms": WAIT_MS_MAX,
    "lease_ms": LEASE_MS_MAX,
    "lease_bytes": LEASE_BYTES_MAX,
    "attempts": ATTEMPTS_MAX,
    "request_bytes": REQUEST_BYTES_MAX,
    "nack_reason_bytes": NACK_REASON_BYTES_MAX,
    "backup_name_bytes": BACKUP_NAME_BYTES_MAX,
    "effects_backlog": EFFECTS_BACKLOG_MAX,
    "effects_backlog_bytes": EFFECTS_BACKLOG_BYTES_MAX,
    "live_backlog": LIVE_BACKLOG_MAX,
    "subscription_bytes": SUBSCRIPTION_BYTES_MAX,
    "connections": CONNECTIONS_MAX,
}


class ErrorCode(StrEnum):
    """``error.code`` of a failed reply."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_OP = "unknown_op"
    SESSION_NOT_FOUND = "session_not_found"
    SESSION_CLOSED = "session_closed"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    CURSOR_INVALID = "cursor_invalid"
    STORAGE_FAILED = "storage_failed"
    SHUTTING_DOWN = "shutting_down"
    NOT_AUTHORIZED = "not_authorized"
    GROUP_NOT_FOUND = "group_not_found"
    LEASE_LOST = "lease_lost"
    INTERNAL = "internal"


class Fields(NamedTuple):
    """What a command may carry besides ``op``, in the order that it is checked in, and who may give it."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    role: str = READER  # the least one that may give it


OPS: Final[dict[str, Fields]] = {
    "hello": Fields(),
    "ping": Fields(),
    "create_session": Fields((), ("name", "meta", "key"), WRITER),
    "append": Fields(("session_id", "role", "content"), ("meta", "key", "after_key", "expect_seq"), WRITER),
    "append_many": Fields(("session_id", "messages"), ("key", "after_key", "expect_seq"), WRITER),
    "close_session": Fields(("session_id",), (), WRITER),
    "pipeline": Fields(("commands",), (), WRITER),
    "session": Fields((), ("session_id", "name")),
    "sessions": Fields((), ("after", "before", "limit", "closed")),
    "tails": Fields(("session_ids",)),
    "read": Fields(("session_id",), ("after", "before", "limit", "reason", "epoch")),
    "snapshot": Fields(("session_id",), ("after", "limit")),
    "delta": Fields(("session_id",), ("after", "limit", "snapshot_position")),
    "refresh_snapshot": Fields((), (), ADMIN),
    "log": Fields((), ("after", "limit", "epoch")),
    "sync": Fields(("token",)),
    "stats": Fields(),
    "health": Fields(),
    "verify": Fields((), ("job", "at"), ADMIN),
    "backup": Fields((), ("name", "job"), ADMIN),
    "create_group": Fields(
        ("group", "start"), ("types", "ordered", "max_attempts", "backoff_ms", "on_dead"), WORKER
    ),
    "lease": Fields(("group",), ("max", "lease_ms", "wait_ms", "request"), WORKER),
    "ack": Fields(("group", "leases"), (), WORKER),
    "nack": Fields(("group", "leases"), ("reason", "delay_ms"), WORKER),
    "extend": Fields(("group", "leases"), ("lease_ms",), WORKER),
    "groups": Fields((), ("group",)),
    "dead_letters": Fields(("group",), ("after", "limit")),
    "requeue": Fields(("group",), ("positions",), ADMIN),
    "discard": Fields(("group",), ("positions",), ADMIN),
    "drop_group": Fields(("group",), (), ADMIN),
}

# Defaults of the worker groups' fields, times in milliseconds.
GROUP_DEFAULTS: Final = {"ordered": False, "max_attempts": 5, "backoff_ms": 1000, "on_dead": "skip"}
LEASE_MS_DEFAULT: Final = 30_000
BACKOFF_MS_MAX: Final = 3_600_000  # the doubled backoff ends here

SESSION_CREATED: Final = "session_created"
MESSAGE_APPENDED: Final = "message_appended"
SESSION_CLOSED: Final = "session_closed"
EVENT_TYPES: Final = (SESSION_CREATED, MESSAGE_APPENDED, SESSION_CLOSED)

HEARTBEAT_TOPIC: Final = b"heartbeat/"
GOODBYE_TOPIC: Final = b"goodbye/"
WELCOME_TOPIC: Final = b"welcome/"  # one frame, the epoch behind it: the first message of every connection
FACT_TOPICS: Final = (b"created/", b"message/", b"closed/")


def created_topic(session_id: int) -> bytes:
    """Topic of a session's creation."""
    return b"created/%d/" % session_id


def message_topic(session_id: int) -> bytes:
    """Topic of every message of one session."""
    return b"message/%d/" % session_id


def closed_topic(session_id: int) -> bytes:
    """Topic of a session's closure."""
    return b"closed/%d/" % session_id


def sync_topic(token: str) -> bytes:
    """Topic of a follower's own `sync`; sorts after every other topic, see docs/protocol.md."""
    return b"~sync/%s/" % token.encode("ascii")
