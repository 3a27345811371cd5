"""The asyncio side of following: does what a Follower says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from armin import calls
from armin.async_channel import AsyncChannel, AsyncInlet
from armin.channel import Clock
from armin.errors import ArminError, NoReply, SessionNotFound, ShuttingDown
from armin.following import Ask, AskTail, Deliver, Follower, Subscribe, Tell, Unsubscribe, Wait
from armin.results import FollowState, Tails
from armin.tails import Board

T = TypeVar("T")

Pending = asyncio.Future[ArminError | None]


class AsyncQuestions:
    """What one follow asks; where sessions end is asked for all follows of the client."""

    def __init__(self, channel: AsyncChannel, board: Board[Pending]) -> None:
        self._channel = channel
        self._board = board

    async def put(self, question: Ask[Any] | AskTail) -> Any:
        """Have a question answered; one after the end of a session perhaps together with others.

        Raises:
            ArminError: the engine refused, or nobody answered whoever asked.
        """
        if isinstance(question, Ask):
            return await self._channel.request(question.call)
        return await self._tail(question.session_id, question.position)

    async def _tail(self, session_id: int, position: int) -> Tails:
        board = self._board
        while (answer := board.answer(session_id, position)) is None:
            if board.pending is None:
                answer = await self._ask_for_all(board.question(session_id, position))
                if answer is not None:
                    break
            else:
                # Shielded: who gives up waiting must not take the answer from the others.
                absence = await asyncio.shield(board.pending)
                if absence is not None:
                    raise absence
        return answer

    async def _ask_for_all(self, asked: list[int]) -> Tails | None:
        board, absence = self._board, None
        mine: Pending = asyncio.get_running_loop().create_future()
        board.pending = mine
        try:
            return board.answered(asked, await self._channel.request(calls.tails(asked)))
        except SessionNotFound:
            if len(asked) == 1:
                raise
            board.refused(asked)
            return None
        except (NoReply, ShuttingDown) as error:
            absence = error
            raise
        finally:
            board.pending = None
            mine.set_result(absence)


async def drive(
    follower: Follower[T],
    questions: AsyncQuestions,
    live: AsyncInlet,
    clock: Clock,
    on_state: Callable[[FollowState], object],
) -> AsyncGenerator[T, None]:
    """Yield what the follower delivers, until it ends."""
    while (action := follower.next(clock())) is not None:
        match action:
            case Deliver(items):
                for item in items:
                    yield item
            case Wait(until):
                frames = await live.receive(until)
                if frames is None:
                    follower.idle(clock())
                else:
                    follower.received(frames, clock())
            case Ask() | AskTail():
                try:
                    result = await questions.put(action)
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
