"""Many writes in flight over one connection, each on disk when its result is there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from armin import calls
from armin.calls import Call
from armin.channel import Channel
from armin.errors import ArminError
from armin.outbox import Answer
from armin.results import Appended, AppendedMany, Closed, NewMessage, Session

T = TypeVar("T")


class Pending(Generic[T]):
    """The result of a write that may still be on its way."""

    def __init__(self, channel: Channel, answer: Answer[T]) -> None:
        self._channel = channel
        self._answer = answer

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._answer.is_there

    def result(self) -> T:
        """What the method of the same name of `Client` returns, or raises."""
        self._channel.wait((self._answer,))
        return self._answer.get()


class Pipeline:
    """Writes that do not wait for one another; made by `Client.pipeline`, for one thread, used in a `with`.

    Writes of one session are made in the order in which they were asked for. At most 256 of them and
    16 MiB are unanswered at a time; then the next one waits. Under load several go together in one message:
    what waits is sent when it is half of what is on its way unanswered, at the latest by `flush` or by asking
    for a result. So `flush` before a pause: what waits or is lost is sent only by calls that send or wait.
    Pauses between calls do not count towards the timeout: nothing is given up for them, and a write that has
    no answer yet may be made as late as the next call. Leaving the `with` waits for all of them, and raises
    the first error that nobody has looked at; leaving it with an exception waits for nothing.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._unseen: deque[Answer[Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self._channel.close()

    def flush(self) -> None:
        """Wait until everything so far is answered; raise the first error that nobody has looked at."""
        self._channel.wait(tuple(self._unseen))
        failed: ArminError | None = None
        while self._unseen:
            answer = self._unseen.popleft()
            if failed is None and not answer.is_seen:
                failed = answer.error
        if failed is not None:
            raise failed

    def create_session(
        self, name: str | None = None, meta: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Pending[Session]:
        """As `Client.create_session`."""
        return self._send(calls.create_session(name, meta, key))

    def append(
        self,
        session_id: int,
        role: str,
        content: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expect_seq: int | None = None,
        key: str | None = None,
    ) -> Pending[Appended]:
        """As `Client.append`."""
        return self._send(calls.append(session_id, role, content, meta, expect_seq, key))

    def append_many(
        self,
        session_id: int,
        messages: Iterable[Mapping[str, Any] | NewMessage],
        *,
        expect_seq: int | None = None,
        key: str | None = None,
    ) -> Pending[AppendedMany]:
        """As `Client.append_many`."""
        return self._send(calls.append_many(session_id, messages, expect_seq, key))

    def close_session(self, session_id: int) -> Pending[Closed]:
        """As `Client.close_session`; made when all writes before it in this session are answered."""
        return self._send(calls.close_session(session_id))

    def _send(self, call: Call[T]) -> Pending[T]:
        answer = self._channel.pipelined(call)
        self._unseen.append(answer)
        while self._unseen and self._unseen[0].is_fine:
            self._unseen.popleft()  # nothing is left to be looked at
        return Pending(self._channel, answer)
