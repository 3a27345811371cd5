"""What a follower follows: one session, or the whole log. Each keeps its cursor and says what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

from armin import calls
from armin.calls import Call
from armin.errors import BadRequest, CursorInvalid, ProtocolError
from armin.results import Event, EventPage, Hello, Message, MessagePage, Tails
from armin_broker import protocol

T_co = TypeVar("T_co", covariant=True)

PAGE_ITEMS: Final = 1000  # items asked for at once when the client pages by itself
HEAL: Final = "heal"  # the reason of a read that makes up for what the live socket lost
EPOCHS: Final = "epochs"  # the engine's feature that pages are asked for with an epoch


class Verdict(Enum):
    """What an event or a heartbeat means for whoever follows."""

    FINE = auto()  # nothing is missing
    READ = auto()  # something is to be read that the live socket does not carry
    LOST = auto()  # something was lost: read it


class Doubt(NamedTuple):
    """The log has moved on to `position`, perhaps elsewhere.

    `lacks` says of where the session ends, then or later, whether something of it is still awaited.
    """

    session_id: int
    position: int
    lacks: Callable[[Tails], bool]


class Taken(NamedTuple):
    """What a page brought: items to deliver, whether to read on, whether nothing will ever follow."""

    items: Sequence[Any]
    more: bool
    ended: bool


class Feed(Protocol[T_co]):
    """A cursor over something that grows; `T_co` is what it delivers."""

    topics: tuple[bytes, ...]
    session_ids: tuple[int, ...]  # sessions of which it may have to ask where they end

    def page_call(self, reason: str | None, epoch: str | None) -> Call[Any]:
        """The read that continues from the cursor, which belongs to `epoch` where that is known."""

    def take_page(self, page: Any) -> Taken:
        """Move the cursor over a page."""

    def take_event(self, event: Event) -> tuple[T_co | None, Verdict]:
        """Move the cursor over a live event, if it is the next one."""

    def check(self, position: int) -> Verdict | Doubt:
        """Whether a heartbeat at `position` shows that something was missed."""


class SessionFeed:
    """The messages of one session by seq; `cursor` is the seq of the last one delivered."""

    def __init__(self, session_id: int, cursor: int) -> None:
        self.topics: tuple[bytes, ...] = (
            protocol.message_topic(session_id),
            protocol.closed_topic(session_id),
        )
        self.session_ids: tuple[int, ...] = (session_id,)
        self.cursor = cursor
        self._session_id = session_id
        self._checked = 0  # nothing of this session was missed up to this position

    def page_call(self, reason: str | None, epoch: str | None) -> Call[MessagePage]:
        """The read that continues from the cursor."""
        return calls.read(self._session_id, after=self.cursor, limit=PAGE_ITEMS, reason=reason, epoch=epoch)

    def take_page(self, page: MessagePage) -> Taken:
        """Move the cursor over a page."""
        for message in page.messages:
            if message.seq != self.cursor + 1:
                raise ProtocolError(f"a read after seq {self.cursor} gave seq {message.seq}")
            self.cursor = message.seq
        if page.more and not page.messages:
            raise ProtocolError("a page says that more follows, but is empty")
        if not page.more:
            self._checked = max(self._checked, page.position)
        return Taken(page.messages, page.more, page.closed and not page.more)

    def take_event(self, event: Event) -> tuple[Message | None, Verdict]:
        """Deliver the next message; a closure calls for a last look at the session."""
        message = event.message
        if message is None:
            return None, Verdict.READ if event.type == protocol.SESSION_CLOSED else Verdict.FINE
        if message.seq <= self.cursor:
            return None, Verdict.FINE
        if message.seq > self.cursor + 1:
            return None, Verdict.LOST
        if message.elided:
            return None, Verdict.READ
        self.cursor = message.seq
        self._checked = max(self._checked, event.position)
        return message, Verdict.FINE

    def check(self, position: int) -> Verdict | Doubt:
        """The log has moved on: only the engine knows whether in this session."""
        if position <= self._checked:
            return Verdict.FINE
        return Doubt(self._session_id, position, self._lacks)

    def _lacks(self, answer: Tails) -> bool:
        """Whether the session ends behind the cursor, or is closed."""
        [tail] = answer.tails
        if tail.closed or tail.seq > self.cursor:
            return True
        self._checked = max(self._checked, answer.position)
        return False


class LogFeed:
    """Every fact by position; `cursor` is that of the last one delivered, or passed over.

    `types` are the event types to deliver, None for all. The cursor moves over every fact all the same:
    only positions without a gap show that nothing was lost.
    """

    topics: tuple[bytes, ...] = protocol.FACT_TOPICS
    session_ids: tuple[int, ...] = ()

    def __init__(self, cursor: int, types: frozenset[str] | None = None) -> None:
        self.cursor = cursor
        self._types = types

    def page_call(self, reason: str | None, epoch: str | None) -> Call[EventPage]:
        """The read that continues from the cursor; the log has no field for the reason."""
        return calls.log(after=self.cursor, limit=PAGE_ITEMS, epoch=epoch)

    def take_page(self, page: EventPage) -> Taken:
        """Move the cursor over a page."""
        for event in page.events:
            if event.position != self.cursor + 1:
                raise ProtocolError(f"the log after position {self.cursor} gave position {event.position}")
            self.cursor = event.position
        if page.more and not page.events:
            raise ProtocolError("a page says that more follows, but is empty")
        return Taken([event for event in page.events if self._wanted(event)], page.more, False)

    def take_event(self, event: Event) -> tuple[Event | None, Verdict]:
        """Deliver the next fact."""
        if event.position <= self.cursor:
            return None, Verdict.FINE
        if event.position > self.cursor + 1:
            return None, Verdict.LOST
        self.cursor = event.position
        return event if self._wanted(event) else None, Verdict.FINE

    def _wanted(self, event: Event) -> bool:
        return self._types is None or event.type in self._types

    def check(self, position: int) -> Verdict:
        """A heartbeat comes behind every fact up to its position, so a cursor below it has lost some."""
        return Verdict.LOST if position > self.cursor else Verdict.FINE


def log_feed(after: int | Literal["now"] | None, types: frozenset[str] | None, hello: Hello) -> LogFeed:
    """The log behind position `after`; "now" and None mean the position that `hello` names."""
    return LogFeed(hello.position if after is None or after == "now" else after, types)


def check_epoch(hello: Hello, epoch: str | None) -> None:
    """Whether a cursor that was kept with `epoch` may be used.

    Raises:
        CursorInvalid: the engine's is another one.
    """
    if epoch is not None and epoch != hello.epoch:
        raise CursorInvalid(
            f"the cursor is of epoch {epoch}, the engine's is {hello.epoch}: another or a restored database"
        )


def epoch_to_keep(hello: Hello) -> str | None:
    """What the next pages are to be asked for with; None where the engine knows no `epoch` in pages."""
    return hello.epoch if EPOCHS in hello.features else None


def checked_types(types: Iterable[str] | None) -> frozenset[str] | None:
    """The event types that a caller wants, None for all.

    Raises:
        BadRequest: one of them is none, or there are none at all.
    """
    if types is None:
        return None
    known = ", ".join(protocol.EVENT_TYPES)
    if isinstance(types, str):
        raise BadRequest(f"types is one string, not several of {known}", field="types")
    wanted = frozenset(types)
    if not wanted or not wanted <= set(protocol.EVENT_TYPES):
        raise BadRequest(f"types must be some of {known}, not {sorted(map(str, wanted))}", field="types")
    return wanted
