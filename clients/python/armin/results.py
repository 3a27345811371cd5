"""What the client gives back: frozen values, one class for each shape on the wire.

Times are integer milliseconds since the Unix epoch, UTC. `position` is a place in the log of the whole
database, from 1, dense; on a result that does not describe one fact it is the last committed position
when the engine answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from armin.errors import ArminError


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be appended: role `user`, `assistant`, `system` or `tool`, its text, an optional map."""

    role: str
    content: str
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A committed message. `seq` is its place in its session, from 1, dense.

    `elided` is True only inside an event whose content was too large for a stream: then `content` is
    empty and `meta` None, and `read` has both.
    """

    id: int
    session_id: int
    seq: int
    role: str
    content: str
    created_at: int
    meta: dict[str, Any] | None = None
    elided: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the engine can do its work: `ready`, or the `reasons` why not.

    `state` is `serving`, `degraded` or `refusing_writes`; later engines may know others.
    """

    live: bool
    ready: bool
    state: str
    reasons: tuple[str, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it stood at `position`. `seq` is its last message's, 0 if it has none.

    `duplicate` is True only where `create_session` found a session of this name.
    """

    id: int
    name: str | None
    closed: bool
    created_at: int
    seq: int
    meta: dict[str, Any] | None
    position: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """One message is on disk: its id, its seq in the session, and `at`, its position in the log."""

    id: int
    seq: int
    at: int
    created_at: int
    position: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class AppendedMany:
    """`count` messages are on disk; their ids, seqs and positions run up from the first ones."""

    first_id: int
    first_seq: int
    first_at: int
    count: int
    created_at: int
    position: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is closed. `at` is the position of its closure; `duplicate` if it was closed before."""

    at: int
    position: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions by ascending id. `more` says whether others follow in the paging direction."""

    sessions: tuple[Session, ...]
    more: bool
    position: int


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages by ascending seq. `seq` is the session's last, `closed` its state at `position`.

    `more` says whether others follow in the paging direction.
    """

    messages: tuple[Message, ...]
    more: bool
    seq: int
    closed: bool
    position: int


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Messages of the snapshot, or of what came after it (`delta`), by ascending seq.

    `snapshot_position` is the log position that the snapshot stands at, `snapshot_seq` the seq of the
    session's last message in it, 0 if it has none there.
    """

    messages: tuple[Message, ...]
    more: bool
    snapshot_position: int
    snapshot_seq: int
    position: int


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The snapshot now stands at `snapshot_position`."""

    snapshot_position: int
    position: int


@dataclass(frozen=True, slots=True)
class Event:
    """One committed fact: `type` is `session_created`, `message_appended` or `session_closed`.

    `message` is there for an append, `name` and `meta` (the session's) for a creation where it has them.
    `created_at` is the session's or the message's; None for a closure.
    """

    position: int
    type: str
    session_id: int
    message: Message | None = None
    created_at: int | None = None
    name: str | None = None
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events by ascending position. `more` says whether others follow."""

    events: tuple[Event, ...]
    more: bool
    position: int


@dataclass(frozen=True, slots=True)
class Tail:
    """Where a session ends: the seq of its last message (0 if it has none) and whether it is closed."""

    session_id: int
    seq: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Tails:
    """The tails asked for, in the order asked."""

    tails: tuple[Tail, ...]
    position: int


class FollowState(StrEnum):
    """How a `follow` stands, as its `on_state` is told."""

    CATCHING_UP = "catching up"  # reading what is on disk: at the start, and after a loss or a restart
    LIVE = "live"  # all that there was is delivered; what comes is delivered as it comes
    ENGINE_GONE = "engine gone"  # it said goodbye, was not heard for 3 s, or does not answer; waiting for it


@dataclass(frozen=True, slots=True)
class Hello:
    """What the engine says of itself.

    `features` lists what it can do beyond the first version of the protocol. `database` is the file's
    random id, `epoch` is renewed by a restore, `engine` at every start. `endpoints` has a key `ipc`,
    `tcp` or both, each a map of `commands`, `live` and `effects` to a file path or a port. `limits` are
    counts and bytes, named as in docs/protocol.md. `role` is what this client may do: `reader`, `writer`,
    `worker` or `admin`; None where the engine knows no roles.
    """

    protocol: str
    version: str
    features: tuple[str, ...]
    database: str
    epoch: str
    engine: str
    endpoints: dict[str, Any]
    limits: dict[str, int]
    durability: dict[str, Any]
    position: int
    role: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of the log that is not as it should be; 0 where a session, message or seq does not apply."""

    position: int
    session_id: int
    message_id: int
    seq: int

    def __str__(self) -> str:
        if self.message_id:
            what = f", message {self.message_id} (session {self.session_id}, seq {self.seq})"
        else:
            what = f", session {self.session_id}" if self.session_id else ""
        return f"position {self.position}{what}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Memory compared with the file at `position`: `checked` facts, and in words what differs.

    Of many differences the last entry says how many more there are. `head` is the digest chain's head,
    `POSITION:DIGEST`, to be kept elsewhere; None if the log could not be read to its end. `first_bad` is
    the first row that is wrong, where a difference is about one.
    """

    equal: bool
    position: int
    checked: int
    differences: tuple[str, ...]
    head: str | None = None
    first_bad: BadRow | None = None


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A verified copy, `name` in the engine's directory of backups, of the log up to `position`.

    `head` is the digest chain's head there, `POSITION:DIGEST`; it took `duration_ms` milliseconds.
    """

    name: str
    bytes: int
    position: int
    head: str
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Group:
    """A worker group: its settings, and how it stands.

    `types` are the event types that it takes. `cursor` is a position: every fact up to it was taken or
    passed over; `behind` counts those after it. Of the taken ones, `waiting` have no worker at the moment,
    `leased` have one; `dead` are dead letters. `halted` is a group with `on_dead="halt"` that has one.
    `pollers` wait for something to do. `duplicate` is True only where `create_group` found it there.
    """

    group: str
    start: str
    types: tuple[str, ...]
    ordered: bool
    max_attempts: int
    backoff_ms: int
    on_dead: str
    created_at: int
    cursor: int
    behind: int
    waiting: int
    leased: int
    dead: int
    halted: bool
    pollers: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """One effect, ours until `until` (milliseconds since the epoch, the engine's clock).

    `lease` is opaque: `ack`, `nack` and `extend` take it. `attempt` counts from 1; above it the effect was
    leased before, and may have been handled.
    """

    lease: str
    position: int
    attempt: int
    until: int
    event: Event


@dataclass(frozen=True, slots=True)
class Leases:
    """What `lease` gave, by position; empty if there was nothing within the wait."""

    leases: tuple[Lease, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one lease in `ack`, `nack` or `extend`; `error` says why if not `ok`.

    `duplicate` if it was acked before, `dead` if the nack made a dead letter of its effect, `until` the
    new end of an extended lease.
    """

    lease: str
    ok: bool
    duplicate: bool = False
    dead: bool = False
    until: int | None = None
    error: ArminError | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One outcome for each lease, in the order given."""

    outcomes: tuple[Outcome, ...]
    position: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An effect that was given up after `attempts`; `reason` is what the last nack said."""

    position: int
    attempts: int
    reason: str | None
    died_at: int
    event: Event


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Dead letters by ascending position. `more` says whether others follow."""

    dead_letters: tuple[DeadLetter, ...]
    more: bool
    position: int
