"""Armin's engine: durable ordered sessions in one SQLite file, embedded in one process.

Usable on its own, without any socket:

    from armin_engine import Armin

    with Armin("chat.db") as armin:
        session = armin.create_session().session
        armin.append(session.id, "user", "hello")
        for message in armin.read(session.id).messages:
            print(message.seq, message.role, message.content)
"""

from armin_engine.armin import Armin
from armin_engine.delta import DeltaView
from armin_engine.effects import NullSink, RecordingSink, SideEffectSink
from armin_engine.errors import (
    AlreadyOwned,
    BadRequest,
    CommandError,
    Conflict,
    CorruptDatabase,
    CursorInvalid,
    EngineError,
    MemoryExceeded,
    NewerSchema,
    NotAnArminDatabase,
    OpenError,
    SessionClosed,
    SessionNotFound,
    StorageFailed,
    TooLarge,
)
from armin_engine.live import LiveHub, Subscription
from armin_engine.records import (
    Append,
    Appended,
    Closed,
    CloseSession,
    Created,
    CreateSession,
    Event,
    Message,
    Recorded,
    Rows,
    SessionInfo,
)
from armin_engine.snapshot import SessionSnapshot, SnapshotView
from armin_engine.verify import Report

__all__ = [
    "AlreadyOwned",
    "Append",
    "Appended",
    "Armin",
    "BadRequest",
    "CloseSession",
    "Closed",
    "CommandError",
    "Conflict",
    "CorruptDatabase",
    "CreateSession",
    "Created",
    "CursorInvalid",
    "DeltaView",
    "EngineError",
    "Event",
    "LiveHub",
    "MemoryExceeded",
    "Message",
    "NewerSchema",
    "NotAnArminDatabase",
    "NullSink",
    "OpenError",
    "Recorded",
    "RecordingSink",
    "Report",
    "Rows",
    "SessionClosed",
    "SessionInfo",
    "SessionNotFound",
    "SessionSnapshot",
    "SideEffectSink",
    "SnapshotView",
    "StorageFailed",
    "Subscription",
    "TooLarge",
]
