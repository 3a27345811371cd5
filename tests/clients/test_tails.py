"""Where sessions end, asked once for all follows of a client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from armin import NoReply, ProtocolError, SessionNotFound, Tail, Tails
from armin.async_live import AsyncQuestions
from armin.following import AskTail
from armin.live import Questions
from armin.results import Hello
from armin.tails import Board, Boards
from armin_broker.protocol import TAILS_MAX

HELLO = Hello("armin/1", "0", (), "database", "epoch", "engine-1", {}, {}, {}, 100)
SILENCE = NoReply("nobody", reason="not_running", sent=False)
UNKNOWN = 13


def tails(position: int, *session_ids: int) -> Tails:
    return Tails(tuple(Tail(session_id, 7, False) for session_id in session_ids), position)


@pytest.fixture
def board() -> Board[Any]:
    board: Board[Any] = Board()
    board.join([1, 2, 3])
    return board


def test_who_asks_first_asks_for_all_and_for_itself_first(board: Board[Any]) -> None:
    asked = board.question(2, 50)
    assert asked == [2, 1, 3]
    assert board.answered(asked, tails(60, *asked)) == tails(60, 2)
    assert board.answer(1, 60) == tails(60, 1)
    assert board.answer(1, 61) is None


def test_what_is_known_is_not_asked_for_again(board: Board[Any]) -> None:
    board.answered([3], tails(60, 3))
    assert board.question(1, 60) == [1, 2]
    assert board.question(1, 61) == [1, 2, 3]


def test_a_question_keeps_to_the_limit(board: Board[Any]) -> None:
    board.join(range(1, TAILS_MAX + 500))
    asked = board.question(TAILS_MAX + 400, 50)
    assert (len(asked), len(set(asked)), asked[0]) == (TAILS_MAX, TAILS_MAX, TAILS_MAX + 400)
    board.answered(asked, tails(50, *asked))
    assert len(board.question(TAILS_MAX + 490, 50)) == 499


def test_a_session_is_asked_for_until_its_last_follow_ends(board: Board[Any]) -> None:
    board.join([3])
    board.leave([3])
    assert 3 in board.question(1, 50)
    board.leave([3])
    assert 3 not in board.question(1, 50)
    board.answered([1, 3], tails(60, 1, 3))
    assert board.answer(3, 1) is None


def test_tails_that_were_not_asked_for_are_a_protocol_error(board: Board[Any]) -> None:
    with pytest.raises(ProtocolError):
        board.answered([1, 2], tails(60, 2, 1))


def test_two_databases_have_two_boards() -> None:
    boards: Boards[Any] = Boards()
    with (
        boards.joined(HELLO, [1]) as one,
        boards.joined(HELLO, [2]) as same,
        boards.joined(replace(HELLO, epoch="restored"), [1]) as other,
    ):
        assert one is same
        assert one is not other
    assert not boards._boards


class Engine:
    """Stands in for the channel: answers or refuses, and notes what it was asked."""

    def __init__(self, refuses: Callable[[list[int]], Exception | None]) -> None:
        self.refuses = refuses
        self.asked: list[list[int]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def request(self, call: Any) -> Tails:
        asked = list(call.fields["session_ids"])
        self.asked.append(asked)
        assert self.go_on.wait(60)
        error = self.refuses(asked)
        if error is not None:
            raise error
        return tails(100, *asked)


class Later:
    """The same for asyncio."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def request(self, call: Any) -> Tails:
        await asyncio.sleep(0.01)
        return self.engine.request(call)


def outcome(future: Future[Tails]) -> Tails | BaseException:
    return future.exception() or future.result()


Outcomes = dict[int, Tails | BaseException]


def ask_blocking(engine: Engine, session_ids: list[int]) -> Outcomes:
    """Each session's follow asks at once, in a thread."""
    boards: Boards[Any] = Boards()
    with boards.joined(HELLO, session_ids) as board, ThreadPoolExecutor(len(session_ids)) as pool:
        questions = Questions(engine, boards, board)  # type: ignore[arg-type]
        engine.go_on.clear()
        futures = {
            session_id: pool.submit(questions.put, AskTail(session_id, 90, lambda answer, now: None))
            for session_id in session_ids
        }
        engine.go_on.set()
        return {session_id: outcome(future) for session_id, future in futures.items()}


def ask_asyncio(engine: Engine, session_ids: list[int]) -> Outcomes:
    """The same in tasks."""

    async def ask() -> Outcomes:
        boards: Boards[Any] = Boards()
        with boards.joined(HELLO, session_ids) as board:
            questions = AsyncQuestions(Later(engine), board)  # type: ignore[arg-type]
            asking = [questions.put(AskTail(one, 90, lambda answer, now: None)) for one in session_ids]
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
        return dict(zip(session_ids, outcomes, strict=True))

    return asyncio.run(ask())


@pytest.fixture(params=[ask_blocking, ask_asyncio])
def ask(request: pytest.FixtureRequest) -> Callable[[Engine, list[int]], Outcomes]:
    chosen: Callable[[Engine, list[int]], Outcomes] = request.param
    return chosen


def test_one_question_answers_all(ask: Callable[[Engine, list[int]], Outcomes]) -> None:
    engine = Engine(lambda asked: None)
    assert ask(engine, [1, 2, 3, 4]) == {number: tails(100, number) for number in (1, 2, 3, 4)}
    assert [sorted(asked) for asked in engine.asked] == [[1, 2, 3, 4]]


def test_an_unknown_session_is_an_error_for_its_own_follow_alone(
    ask: Callable[[Engine, list[int]], Outcomes],
) -> None:
    engine = Engine(lambda asked: SessionNotFound("there is no session 13") if UNKNOWN in asked else None)
    outcomes = ask(engine, [1, 2, UNKNOWN, 4])
    assert isinstance(outcomes.pop(UNKNOWN), SessionNotFound)
    assert outcomes == {number: tails(100, number) for number in (1, 2, 4)}
    assert len(engine.asked[0]) == 4
    assert sum(UNKNOWN in asked for asked in engine.asked) == 2


def test_an_absence_is_told_to_all_who_wait_for_the_answer(
    ask: Callable[[Engine, list[int]], Outcomes],
) -> None:
    engine = Engine(lambda asked: SILENCE)
    outcomes = ask(engine, [1, 2, 3])
    assert all(isinstance(outcome, NoReply) for outcome in outcomes.values())


def test_who_gives_up_asking_leaves_the_question_to_another() -> None:
    async def run() -> Any:
        boards: Boards[Any] = Boards()
        engine = Later(Engine(lambda asked: None))
        with boards.joined(HELLO, [1, 2]) as board:
            questions = AsyncQuestions(engine, board)  # type: ignore[arg-type]
            first, second = (
                asyncio.create_task(questions.put(AskTail(one, 90, lambda answer, now: None)))
                for one in (1, 2)
            )
            await asyncio.sleep(0)
            first.cancel()
            return await asyncio.wait_for(second, 60)

    assert asyncio.run(run()) == tails(100, 2)
