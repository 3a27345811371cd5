"""How to follow without a gap and without a repeat, from a live stream that loses things.

A state machine without sockets and without a clock: `next` says what to do, the other methods say what
came of it, and time is passed in. The blocking and the asyncio client both drive it.

    SYNCING   subscribed; `sync` is repeated until it comes back live, so that nothing after it is missed
    READING   page by page from the cursor, until there is no more
    LIVE      events in order; a gap, a doubtful heartbeat or silence leads back
    GREETING  the engine may be another one: ask who it is before reading on
    ENDED     everything there will ever be was delivered

    SYNCING -> READING -> LIVE -> ENDED
                  ^        |  lost something
                  +--------+
    any of them -> GREETING -> READING -> SYNCING -> READING -> LIVE    after silence or a restart

Whoever follows can be told (FollowState): `live` in LIVE, `engine gone` in GREETING unless another engine
was just heard, `catching up` otherwise. Fetching one message that was too large for the stream is no
change of state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Generic, TypeVar

from armin import absence, calls, replies
from armin.calls import Call
from armin.errors import ArminError, CursorInvalid, ProtocolError
from armin.feeds import HEAL, Doubt, Feed, Verdict, epoch_to_keep
from armin.results import FollowState, Hello, Tails
from armin_broker import protocol

T = TypeVar("T")
R = TypeVar("R")

SYNC_INTERVAL: Final = protocol.SYNC_RESEND_MS / 1000  # seconds
LOST_AFTER: Final = protocol.HEARTBEAT_LOST_MS / 1000  # seconds of silence
RETRY_PAUSE: Final = 0.25  # seconds between two looks for an engine that is away
GRACE: Final = 0.25  # seconds that an event may come later than a reply which counts it


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to a topic."""

    topic: bytes


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Undo it."""

    topic: bytes


@dataclass(frozen=True, slots=True)
class Ask(Generic[R]):
    """Send a command; then call `then(result, now)`, or `unanswered` if there is no engine to answer."""

    call: Call[R]
    then: Callable[[R, float], None]


@dataclass(frozen=True, slots=True)
class AskTail:
    """Find out where a session ends at `position` or later; then as for Ask."""

    session_id: int
    position: int
    then: Callable[[Tails, float], None]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a live message until this time; then call `received`, or `idle` if there was none."""

    until: float


@dataclass(frozen=True, slots=True)
class Deliver(Generic[T]):
    """Hand these to the caller, in this order."""

    items: Sequence[T]


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell whoever wants to know how the following stands; never the same twice in a row."""

    state: FollowState


Action = Subscribe | Unsubscribe | Ask[Any] | AskTail | Wait | Deliver[T] | Tell


class Phase(Enum):
    """Where a follower stands; see the module's text."""

    SYNCING = auto()
    READING = auto()
    LIVE = auto()
    GREETING = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """An answer spoke of more than was delivered. It may be under way still, until `due`."""

    due: float
    stands: Callable[[], bool]


class Follower(Generic[T]):
    """Follows one feed on one live socket.

    Args:
        feed: what to follow, and from where.
        hello: the engine that the live socket belongs to.
        now: the time, in seconds of any clock that never goes back.
        timeout: seconds until the first `sync` must have come back.
        endpoint: the live socket's, for the message if it does not.
        tokens: makes a new token of a-z, 0-9 for each handshake.
    """

    def __init__(
        self,
        feed: Feed[T],
        hello: Hello,
        *,
        now: float,
        timeout: float,
        endpoint: str,
        tokens: Callable[[], str],
    ) -> None:
        self._feed = feed
        self._hello = hello
        self._timeout = timeout
        self._endpoint = endpoint
        self._tokens = tokens
        self._actions: deque[Action[T]] = deque(Subscribe(topic) for topic in _topics(feed))
        self._established = False  # the live socket has worked once: from then on, patience
        self._synced = False
        self._reason: str | None = None
        self._doubt: Doubt | None = None
        self._suspicion: _Suspicion | None = None
        self._last_sign = now  # of life, on the live socket
        self._due = now  # when the present phase does its next thing
        self._give_up = now
        self._token = ""
        self._phase = Phase.SYNCING
        self._state: FollowState | None = None
        self._tell(FollowState.CATCHING_UP)
        self._begin_sync(now)

    # --- what to do -------------------------------------------------------------------------------

    def next(self, now: float) -> Action[T] | None:
        """What to do now; None at the end.

        Raises:
            NoReply: the live socket has never worked.
        """
        if self._actions:
            return self._actions.popleft()
        match self._phase:
            case Phase.SYNCING:
                return self._next_sync(now)
            case Phase.READING:
                return Ask(self._feed.page_call(self._reason, self._known_epoch()), self._paged)
            case Phase.LIVE:
                return self._next_live()
            case Phase.GREETING:
                return Wait(self._due) if now < self._due else Ask(calls.hello(), self._greeted)
            case Phase.ENDED:
                return None

    @property
    def is_live(self) -> bool:
        """Whether the next thing to do, behind what is to be done already, is to wait for live messages."""
        return self._phase is Phase.LIVE and self._doubt is None

    def _next_sync(self, now: float) -> Action[T] | None:
        if now >= self._give_up:
            if not self._established:
                raise absence.no_live(self._endpoint, self._timeout)
            self._look_again(now)
            return self.next(now)
        if now >= self._due:
            return Ask(calls.sync(self._token), self._sync_sent)
        return Wait(min(self._due, self._give_up))

    def _next_live(self) -> Action[T]:
        if self._doubt is not None:
            return AskTail(self._doubt.session_id, self._doubt.position, self._doubt_answered)
        until = self._last_sign + LOST_AFTER
        return Wait(until if self._suspicion is None else min(until, self._suspicion.due))

    # --- what came of it --------------------------------------------------------------------------

    def received(self, frames: Sequence[bytes], now: float) -> None:
        """A live message came.

        Raises:
            CursorInvalid: it is another database, or a restored one.
            ProtocolError: it is no message of Armin's.
        """
        self._last_sign = now
        if len(frames) == 1 and frames[0].startswith(protocol.WELCOME_TOPIC):
            epoch = frames[0].removeprefix(protocol.WELCOME_TOPIC).decode("utf-8", "replace")
            self._check_identity(self._hello.database, epoch)
            return
        if len(frames) != 2:
            raise ProtocolError(f"a live message has {len(frames)} frames, not 2")
        topic, body = frames
        if self._phase is Phase.SYNCING:
            # Events before the token are in the pages that are read after it.
            if topic == protocol.sync_topic(self._token):
                self._sync_came(replies.decode_beat(body), now)
        elif self._phase is Phase.LIVE:
            self._live(topic, body, now)

    def _sync_came(self, sign: replies.Fields, now: float) -> None:
        self._check_identity(replies.text(sign, "database"), replies.text(sign, "epoch"))
        if replies.text(sign, "engine") != self._hello.engine:
            self._look_again(now)
            return
        self._end_sync()
        self._established = self._synced = True
        self._phase = Phase.READING

    def _live(self, topic: bytes, body: bytes, now: float) -> None:
        if topic == protocol.HEARTBEAT_TOPIC:
            self._beat(replies.decode_beat(body), now)
        elif topic == protocol.GOODBYE_TOPIC:
            self._engine_gone(now, pause=RETRY_PAUSE)
        elif topic.startswith(protocol.FACT_TOPICS):
            item, verdict = self._feed.take_event(replies.decode_event(body))
            if item is not None:
                self._deliver(item)
            self._heed(verdict)

    def _deliver(self, item: T) -> None:
        """Together with the items before it, if nothing else is to be done in between."""
        last = self._actions[-1] if self._actions else None
        if isinstance(last, Deliver) and isinstance(last.items, list):
            last.items.append(item)
        else:
            self._actions.append(Deliver([item]))

    def _beat(self, beat: replies.Fields, now: float) -> None:
        self._check_identity(replies.text(beat, "database"), replies.text(beat, "epoch"))
        if replies.text(beat, "engine") != self._hello.engine:
            self._look_again(now)
            return
        verdict = self._feed.check(replies.position(beat))
        if isinstance(verdict, Doubt):
            self._doubt = verdict
        else:
            self._heed(verdict)

    def idle(self, now: float) -> None:
        """Nothing came in the time to wait. Only now can silence be told from a backlog."""
        if self._phase is not Phase.LIVE:
            return
        if now >= self._last_sign + LOST_AFTER:
            self._engine_gone(now)
        elif self._suspicion is not None and now >= self._suspicion.due:
            if self._suspicion.stands():
                self._heed(Verdict.LOST)
            self._suspicion = None

    def unanswered(self, error: ArminError, now: float) -> None:
        """There was no engine to answer what was asked. Before the first handshake that is an error."""
        if not self._established:
            raise error
        self._engine_gone(now, pause=RETRY_PAUSE)

    def _sync_sent(self, position: int, now: float) -> None:
        self._due = now + SYNC_INTERVAL

    def _paged(self, page: Any, now: float) -> None:
        items, more, ended = self._feed.take_page(page)
        if items:
            self._actions.append(Deliver(items))
        if ended:
            self._phase = Phase.ENDED
        elif more:
            self._tell(FollowState.CATCHING_UP)
        elif self._synced:
            self._phase = Phase.LIVE
            self._last_sign = now
            self._tell(FollowState.LIVE)
        else:
            self._begin_sync(now)

    def _doubt_answered(self, answer: Tails, now: float) -> None:
        doubt, self._doubt = self._doubt, None
        if doubt is not None and doubt.lacks(answer):
            self._suspicion = _Suspicion(now + GRACE, lambda: doubt.lacks(answer))

    def _greeted(self, hello: Hello, now: float) -> None:
        self._check_identity(hello.database, hello.epoch)
        self._hello = hello
        self._reason = HEAL
        self._phase = Phase.READING
        self._tell(FollowState.CATCHING_UP)

    # --- from phase to phase ----------------------------------------------------------------------

    def _heed(self, verdict: Verdict) -> None:
        if verdict is Verdict.FINE:
            return
        self._reason = HEAL if verdict is Verdict.LOST else None
        self._doubt = self._suspicion = None
        self._phase = Phase.READING
        if verdict is Verdict.LOST:
            self._tell(FollowState.CATCHING_UP)

    def _engine_gone(self, now: float, pause: float = 0.0) -> None:
        self._look_again(now, pause, FollowState.ENGINE_GONE)

    def _look_again(
        self, now: float, pause: float = 0.0, state: FollowState = FollowState.CATCHING_UP
    ) -> None:
        if self._phase is Phase.SYNCING:
            self._end_sync()
        self._synced = False
        self._doubt = self._suspicion = None
        self._due = now + pause
        self._phase = Phase.GREETING
        self._tell(state)

    def _tell(self, state: FollowState) -> None:
        if state is not self._state:
            self._state = state
            self._actions.append(Tell(state))

    def _begin_sync(self, now: float) -> None:
        self._token = self._tokens()
        self._actions.append(Subscribe(protocol.sync_topic(self._token)))
        self._due = now
        self._give_up = now + (LOST_AFTER if self._established else self._timeout)
        self._phase = Phase.SYNCING

    def _end_sync(self) -> None:
        self._actions.append(Unsubscribe(protocol.sync_topic(self._token)))

    def _known_epoch(self) -> str | None:
        """To be told where the engine takes it: then no page can be of another epoch."""
        return epoch_to_keep(self._hello)

    def _check_identity(self, database: str, epoch: str) -> None:
        if (database, epoch) != (self._hello.database, self._hello.epoch):
            what = "another database" if database != self._hello.database else "a restored database"
            raise CursorInvalid(f"the engine now serves {what}; what was followed has ended")


def _topics(feed: Feed[Any]) -> tuple[bytes, ...]:
    return (*feed.topics, protocol.HEARTBEAT_TOPIC, protocol.GOODBYE_TOPIC, protocol.WELCOME_TOPIC)
