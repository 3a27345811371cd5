"""Armin's client: durable ordered conversations, shared by many processes.

import armin
with armin.connect("DIR") as client:
    session = client.create_session()
    client.append(session.id, "user", "hello")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from armin.client import Client, connect
from armin.effect import Counters, Effect, Retry
from armin.errors import (
    ArminError,
    BadRequest,
    ClientClosed,
    Conflict,
    CursorInvalid,
    GroupNotFound,
    InternalError,
    LeaseLost,
    NoReply,
    NotAuthorized,
    ProtocolError,
    SessionClosed,
    SessionNotFound,
    ShuttingDown,
    StorageFailed,
    TargetError,
    TooLarge,
    UnknownOp,
)
from armin.pipeline import Pending, Pipeline
from armin.results import (
    Appended,
    AppendedMany,
    BackupReport,
    BadRow,
    Closed,
    DeadLetter,
    DeadLetterPage,
    Event,
    EventPage,
    FollowState,
    Group,
    Health,
    Hello,
    Lease,
    Leases,
    Message,
    MessagePage,
    NewMessage,
    Outcome,
    Outcomes,
    Refreshed,
    Session,
    SessionPage,
    SnapshotPage,
    Tail,
    Tails,
    VerifyReport,
)
from armin.worker import Worker

__all__ = [
    "Appended",
    "AppendedMany",
    "ArminError",
    "AsyncClient",
    "AsyncWorker",
    "BackupReport",
    "BadRequest",
    "BadRow",
    "Client",
    "ClientClosed",
    "Closed",
    "Conflict",
    "Counters",
    "CursorInvalid",
    "DeadLetter",
    "DeadLetterPage",
    "Effect",
    "Event",
    "EventPage",
    "FollowState",
    "Group",
    "GroupNotFound",
    "Health",
    "Hello",
    "InternalError",
    "Lease",
    "LeaseLost",
    "Leases",
    "Message",
    "MessagePage",
    "NewMessage",
    "NoReply",
    "NotAuthorized",
    "Outcome",
    "Outcomes",
    "Pending",
    "Pipeline",
    "ProtocolError",
    "Refreshed",
    "Retry",
    "Session",
    "SessionClosed",
    "SessionNotFound",
    "SessionPage",
    "ShuttingDown",
    "SnapshotPage",
    "StorageFailed",
    "Tail",
    "Tails",
    "TargetError",
    "TooLarge",
    "UnknownOp",
    "VerifyReport",
    "Worker",
    "connect",
    "connect_async",
]

# asyncio and the distribution's metadata take longer to load than all the rest, and a command line that
# is called in a shell's loop needs neither.
if TYPE_CHECKING:
    from armin.async_client import AsyncClient, connect_async
    from armin.async_worker import AsyncWorker

    __version__: str
else:

    def __getattr__(name):
        """Load what is not always needed when it is first asked for."""
        if name in ("AsyncClient", "connect_async"):
            from armin import async_client  # noqa: PLC0415

            return getattr(async_client, name)
        if name == "AsyncWorker":
            from armin.async_worker import AsyncWorker  # noqa: PLC0415

            return AsyncWorker
        if name == "__version__":
            return _version()
        raise AttributeError(f"module 'armin' has no attribute {name!r}")


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415

    try:
        return metadata.version("armin")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"
