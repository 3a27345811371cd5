"""The blocking side of following: does what a Follower says."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

from armin import calls
from armin.channel import Channel, Clock, Inlet
from armin.errors import ArminError, NoReply, SessionNotFound, ShuttingDown
from armin.following import Ask, AskTail, Deliver, Follower, Subscribe, Tell, Unsubscribe, Wait
from armin.results import FollowState, Tails
from armin.tails import Board, Boards

T = TypeVar("T")

Pending = Future[ArminError | None]

EVENTS_AT_ONCE: Final = 100  # taken before the caller gets the first of them


class Questions:
    """What one follow asks; where sessions end is asked for all follows of the client."""

    def __init__(self, channel: Channel, boards: Boards[Pending], board: Board[Pending]) -> None:
        self._channel = channel
        self._lock = boards.lock
        self._board = board

    def put(self, question: Ask[Any] | AskTail) -> Any:
        """Have a question answered; one after the end of a session perhaps together with others.

        Raises:
            ArminError: the engine refused, or nobody answered whoever asked.
        """
        if isinstance(question, Ask):
            return self._channel.request(question.call)
        return self._tail(question.session_id, question.position)

    def _tail(self, session_id: int, position: int) -> Tails:
        board = self._board
        while True:
            with self._lock:
                answer = board.answer(session_id, position)
                pending = board.pending if answer is None else None
                if answer is None and pending is None:
                    asked, mine = board.question(session_id, position), Pending()
                    board.pending = mine
            if pending is not None:
                _await(pending)
            elif answer is None:
                answer = self._ask_for_all(asked, mine)
            if answer is not None:
                return answer

    def _ask_for_all(self, asked: list[int], mine: Pending) -> Tails | None:
        absence: ArminError | None = None
        try:
            answer = self._channel.request(calls.tails(asked))
            with self._lock:
                return self._board.answered(asked, answer)
        except SessionNotFound:
            if len(asked) == 1:
                raise
            with self._lock:
                self._board.refused(asked)
            return None
        except (NoReply, ShuttingDown) as error:
            absence = error
            raise
        finally:
            with self._lock:
                self._board.pending = None
            mine.set_result(absence)


def _await(pending: Pending) -> None:
    """Wait for an answer that somebody else asked for. Raises what holds for all who would ask."""
    absence = pending.result()
    if absence is not None:
        raise absence


def new_token() -> str:
    """A token for one `sync` handshake that no other follower has."""
    return secrets.token_hex(8)


def unheard(state: FollowState) -> None:
    """Nobody wants to know."""


def _take_waiting(follower: Follower[T], live: Inlet, clock: Clock) -> ArminError | None:
    """What else is there already, as far as it follows on: one turn for many events.

    Returns what is to be raised once all that came before it is delivered.
    """
    try:
        for _ in range(EVENTS_AT_ONCE):
            if not follower.is_live or (frames := live.take()) is None:
                break
            follower.received(frames, clock())
    except ArminError as error:
        return error
    return None


def drive(
    follower: Follower[T],
    questions: Questions,
    live: Inlet,
    clock: Clock,
    on_state: Callable[[FollowState], object],
) -> Generator[T, None, None]:
    """Yield what the follower delivers, until it ends."""
    failed: ArminError | None = None
    while (action := follower.next(clock())) is not None:
        match action:
            case Deliver(items):
                yield from items
            case Wait(until):
                if failed is not None:
                    raise failed
                frames = live.receive(until)
                if frames is None:
                    follower.idle(clock())
                else:
                    follower.received(frames, clock())
                    failed = _take_waiting(follower, live, clock)
            case Ask() | AskTail():
                try:
                    result = questions.put(action)
                except (NoReply, ShuttingDown) as error:
                    follower.unanswered(error, clock())
                else:
                    action.then(result, clock())
            case Subscribe(topic):
                live.subscribe(topic)
            case Unsubscribe(topic):
                live.unsubscribe(topic)
            case Tell(state):
                on_state(state)
