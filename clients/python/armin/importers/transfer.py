"""One conversation into one session: found or created, compared with what is there, then completed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol

from armin.errors import BadRequest, Conflict, SessionClosed, SessionNotFound, TooLarge
from armin.importers.conversation import Conversation
from armin.importers.export_format import without_origin
from armin.importers.fitting import weigh
from armin.importers.outcome import Problem, ProblemKind
from armin.results import Appended, AppendedMany, Closed, Hello, Message, NewMessage, Session
from armin_broker.protocol import COMMAND_NODES_MAX

# A batch is one command in one group commit: large enough to be fast, small enough that other clients
# of the engine hardly notice.
BATCH_MESSAGES: Final = 2_000
BATCH_BYTES: Final = 2 << 20
_BATCH_NODES: Final = COMMAND_NODES_MAX - 64  # less the command's own fields


class ImportClient(Protocol):
    """What an import needs of armin.Client; errors are those of armin.errors."""

    def hello(self) -> Hello:
        """Who the engine is."""

    def create_session(self, name: str | None = None, meta: Mapping[str, Any] | None = None) -> Session:
        """Create a session, or find the one of this name."""

    def session(self, session_id: int | None = None, *, name: str | None = None) -> Session:
        """Find a session."""

    def messages(self, session_id: int, after: int = 0) -> Iterator[Message]:
        """Read a session page by page."""

    def append(
        self,
        session_id: int,
        role: str,
        content: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expect_seq: int | None = None,
    ) -> Appended:
        """Append one message."""

    def append_many(
        self,
        session_id: int,
        messages: Iterable[Mapping[str, Any] | NewMessage],
        *,
        expect_seq: int | None = None,
    ) -> AppendedMany:
        """Append messages, all or none."""

    def close_session(self, session_id: int) -> Closed:
        """Close a session."""


class State(Enum):
    """What became of a conversation."""

    CREATED = auto()  # a new session holds it
    CONTINUED = auto()  # its session held a part of it
    PRESENT = auto()  # its session held all of it
    FAILED = auto()  # its session does not hold it; the problem says why


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one conversation went: messages appended, messages that were there, what went wrong."""

    state: State
    added: int
    present: int
    problem: Problem | None = None


class _Differs(Exception):
    """The session holds something else, at this seq or (0) as a whole."""

    def __init__(self, why: str, seq: int) -> None:
        super().__init__(why)
        self.seq = seq


class Transfer:
    """The delivery of one conversation, in two steps, which may go through two clients.

    `told` gets (added, present) counts of messages after each batch. Both steps raise the ArminError
    with which the engine failed; what the conversation is to blame for becomes the delivery's problem.
    """

    def __init__(self, conversation: Conversation, told: Callable[[int, int], object] | None = None) -> None:
        self._conversation = conversation
        self._told = told
        self._session: Session | None = None
        self._created = False
        self._added = 0
        self._present = 0

    def begin(self, client: ImportClient) -> Delivery | None:
        """Find or create the session; a delivery if the conversation cannot go into it."""
        return self._guarded(self._begin, client)

    def complete(self, client: ImportClient) -> Delivery:
        """Bring the messages into the session that `begin` found."""
        delivery = self._guarded(self._complete, client)
        assert delivery is not None  # completing always ends in a state
        return delivery

    def _guarded(self, step: Callable[[ImportClient], State | None], client: ImportClient) -> Delivery | None:
        try:
            state, problem = step(client), None
        except _Differs as error:
            problem = self._conflict(str(error), error.seq)
        except SessionClosed:
            problem = self._conflict("is closed and takes no more messages", self._done + 1)
        except Conflict:
            problem = self._conflict("was written to by somebody else", self._done + 1)
        except (BadRequest, TooLarge) as error:
            problem = self._rejection(error.message)
        if problem is not None:
            state = State.FAILED
        return None if state is None else Delivery(state, self._added, self._present, problem)

    @property
    def _done(self) -> int:
        """The seq up to which session and conversation are known to agree."""
        return self._added + self._present

    # --- begin ------------------------------------------------------------------------------------

    def _begin(self, client: ImportClient) -> None:
        conversation = self._conversation
        self._session = self._find_origin(client)
        if self._session is None:
            self._session = client.create_session(conversation.name, conversation.meta)
            self._created = not self._session.duplicate
        meta = self._session.meta
        if (
            conversation.check_meta
            and not self._created
            and without_origin(meta) != without_origin(conversation.meta)
        ):
            raise _Differs("has another meta", 0)

    def _find_origin(self, client: ImportClient) -> Session | None:
        """The very session that the conversation was exported from, if this is its database."""
        origin = self._conversation.origin
        if origin is None or origin.database != client.hello().database:
            return None
        try:
            session = client.session(origin.session_id)
        except SessionNotFound:
            return None  # the database was restored to an earlier state: import it like any other
        return session if session.name is None and session.created_at == origin.created_at else None

    # --- complete ---------------------------------------------------------------------------------

    def _complete(self, client: ImportClient) -> State:
        session = self._session
        assert session is not None  # begin comes first
        messages = iter(self._conversation.messages)
        goes_on = not self._created and self._compare(client, session.id, messages)
        for batch in batches(messages):
            goes_on = self._bring_in(client, session.id, batch)
        closed_now = self._close(client, session, goes_on)
        if self._created:
            return State.CREATED
        return State.CONTINUED if self._added or closed_now else State.PRESENT

    def _compare(self, client: ImportClient, session_id: int, messages: Iterator[NewMessage]) -> bool:
        """Go through what is there already behind `_done`, leaving the messages that are not; whether the
        session goes on where they end."""
        before = self._present
        try:
            for stored in client.messages(session_id, self._done):
                wanted = next(messages, None)
                if wanted is None:
                    return True
                if not _equal(stored, wanted):
                    raise _Differs(f"holds another message at seq {stored.seq}", stored.seq)
                self._present += 1
            return False
        finally:
            self._tell(0, self._present - before)

    def _bring_in(self, client: ImportClient, session_id: int, batch: list[NewMessage]) -> bool:
        """Append a batch, or what of it is not there yet: another import of the same file may be under way.
        Whether the session goes on behind it."""
        while True:
            try:
                self._append(client, session_id, batch)
                return False
            except (Conflict, SessionClosed):
                done, missing = self._done, iter(batch)
                goes_on = self._compare(client, session_id, missing)
                if self._done == done:  # nothing of it is there: each round takes a step, or is the last
                    raise
                batch = list(missing)
                if not batch:
                    return goes_on

    def _append(self, client: ImportClient, session_id: int, batch: list[NewMessage]) -> None:
        seq = self._done + 1
        if len(batch) == 1:  # its content alone may fill a batch, with a meta beside it
            [message] = batch
            client.append(session_id, message.role, message.content, message.meta, expect_seq=seq)
        else:
            client.append_many(session_id, batch, expect_seq=seq)
        self._added += len(batch)
        self._tell(len(batch), 0)

    def _close(self, client: ImportClient, session: Session, goes_on: bool) -> bool:
        """Close it if the conversation is closed and all there; whether that was still to be done."""
        conversation = self._conversation
        if not conversation.closed or self._done != conversation.count:
            return False
        if goes_on:
            raise _Differs(f"goes on behind seq {self._done}, where the file closes it", self._done + 1)
        return not session.closed and not client.close_session(session.id).duplicate

    def _tell(self, added: int, present: int) -> None:
        if self._told is not None and (added or present):
            self._told(added, present)

    def _conflict(self, why: str, seq: int) -> Problem:
        """The session and the conversation do not agree."""
        session_id = None if self._session is None else self._session.id
        conversation = self._conversation
        return Problem(
            ProblemKind.CONFLICT,
            f"{conversation.place}: session {session_id} ({conversation.name!r}) {why};"
            " nothing in it was overwritten",
            index=conversation.index,
            session=conversation.name,
            session_id=session_id,
            seq=seq or None,
        )

    def _rejection(self, why: str) -> Problem:
        """The engine does not take it."""
        conversation = self._conversation
        return Problem(
            ProblemKind.REJECTED,
            f"{conversation.place}: the engine refused it: {why}",
            index=conversation.index,
            session=conversation.name,
        )


def _equal(stored: Message, wanted: NewMessage) -> bool:
    return (
        stored.content == wanted.content
        and stored.role == wanted.role
        and (stored.meta == wanted.meta or without_origin(stored.meta) == without_origin(wanted.meta))
    )


def batches(messages: Iterable[NewMessage]) -> Iterator[list[NewMessage]]:
    """Messages in batches that the engine takes; a message too heavy for company is alone."""
    batch: list[NewMessage] = []
    size = nodes = 0
    for message in messages:
        own_size, own_nodes = weigh(message)
        full = (
            len(batch) >= BATCH_MESSAGES or size + own_size > BATCH_BYTES or nodes + own_nodes > _BATCH_NODES
        )
        if batch and full:
            yield batch
            batch, size, nodes = [], 0, 0
        batch.append(message)
        size += own_size
        nodes += own_nodes
    if batch:
        yield batch
