"""The blocking worker: does what a Work says, with threads for the handlers and for each line."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from armin.calls import Call
from armin.channel import Channel, Sockets
from armin.effect import Counters, Effect, Failure, Settings, completed, failure, missing
from armin.errors import ArminError, ClientClosed
from armin.live import new_token
from armin.working import POLL_MS, Ask, Begin, Line, Wait, Work, patience

READ_ATTEMPTS: Final = 3  # to fetch a large message, before the attempt counts as failed
READ_PAUSE: Final = 0.2  # seconds between two of these

HANDS_AFTER: Final = 0.001  # seconds that effects wait for a handler's thread before there are more threads
SIGNALS_SEEN: Final = 0.1  # seconds until a signal's handler is called, at most


class Worker:
    """Handles the effects of one group, made by `Client.worker`. Runs once.

    `run` may be called in any thread; handlers run in threads of the worker's own.
    """

    def __init__(
        self,
        sockets: Sockets,
        group: str,
        handler: Callable[[Effect], object],
        settings: Settings,
        *,
        concurrency: int,
        lease_ms: int,
        whole: bool,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.group = group
        self._sockets = sockets
        self._handler = handler
        self._settings = settings
        self._concurrency = concurrency
        self._whole = whole
        self._patience = patience(sockets.timeout, lease_ms)
        self._work = Work(
            group, concurrency=concurrency, lease_ms=lease_ms, timeout=sockets.timeout, tokens=new_token
        )
        self._inbox: SimpleQueue[Callable[[float], None]] = SimpleQueue()  # what came of it
        self._effects: SimpleQueue[Effect | None] = SimpleQueue()  # None ends a handler's thread
        self._calls: dict[Line, SimpleQueue[Call[Any] | None]] = {line: SimpleQueue() for line in Line}
        self._threads: list[threading.Thread] = []
        self._more_hands_at = math.inf  # where effects wait by then
        self._done = threading.Event()
        self._bug: BaseException | None = None
        self._begun = False

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        return self._work.counters

    def stop(self) -> None:
        """Lease no more; `run` returns when what is held is finished. From any thread or signal handler."""
        self._inbox.put(lambda now: self._work.stop())

    def run(self) -> None:
        """Create the group unless it exists, and handle its effects until `stop`.

        Engine restarts are waited for. KeyboardInterrupt stops as `stop` does, and is raised when all is
        finished; the second one is raised at once.

        Raises:
            NoReply: no engine answers at the start.
            Conflict: the group exists with other settings.
            GroupNotFound: the group was dropped.
            ClientClosed: the client was closed.
        """
        if self._begun:
            raise RuntimeError("a worker runs once; make another one")
        self._begun = True
        with self._sockets.channel() as channel:
            channel.request(self._settings.call(self.group))
        # In a thread of its own, so that a KeyboardInterrupt hits nothing but the wait for it.
        self._start(self._drive, "armin worker")
        try:
            self._wait()
        except KeyboardInterrupt:
            self.stop()
            self._wait()
            raise
        for error in (self._bug, self._work.error):
            if error is not None:
                raise error

    def _wait(self) -> None:
        # Another thread may have taken the signal: then a wait without an end would hold up its handler.
        while not self._done.wait(SIGNALS_SEEN):
            pass

    def _start(self, target: Callable[..., None], name: str, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()

    def _drive(self) -> None:
        try:
            with ExitStack() as stack:
                poll = stack.enter_context(self._sockets.channel(POLL_MS / 1000 + self._patience))
                outcomes = stack.enter_context(self._sockets.channel(self._patience))
                stack.callback(self._end_threads)
                self._start(self._ask, "armin leases", Line.LEASES, poll)
                self._start(self._ask, "armin outcomes", Line.OUTCOMES, outcomes)
                self._loop()
        except ClientClosed as error:
            self._work.error = error
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._bug = error
        finally:
            self._done.set()

    def _loop(self) -> None:
        clock = self._sockets.clock
        while (action := self._work.next(clock())) is not None:
            match action:
                case Begin(effect):
                    self._begin(effect)
                case Ask(line, call):
                    self._calls[line].put(call)
                case Wait(until):
                    self._take(min(until, self._more_hands()))

    def _take(self, until: float) -> None:
        """Wait for something to come, and take all that has come with it."""
        clock = self._sockets.clock
        left = until - clock()
        try:
            said = self._inbox.get(timeout=None if left == math.inf else max(0.0, left))
            while True:
                said(clock())
                said = self._inbox.get_nowait()
        except Empty:
            pass

    def _ask(self, line: Line, channel: Channel) -> None:
        """Ask what is to be asked on one line."""
        while (call := self._calls[line].get()) is not None:
            try:
                result = channel.request(call)
            except ArminError as error:
                self._inbox.put(partial(self._work.unanswered, line, error))
            except BaseException as error:  # noqa: BLE001 - raised by `run`
                self._inbox.put(partial(_raise, error))
                return
            else:
                self._inbox.put(partial(self._work.answered, line, result))

    # --- handlers ---

    def _begin(self, effect: Effect) -> None:
        if self._effects.empty():
            self._more_hands_at = self._sockets.clock() + HANDS_AFTER
        self._effects.put(effect)
        if not self._threads:
            self._add_hand()

    def _more_hands(self) -> float:
        """Where effects wait for threads, have twice as many; gives when to look again.

        Not a thread for each at once: where handlers take no time, one thread handles all that there is, and
        to wake a hundred takes longer than that.
        """
        waiting, lacking = self._effects.qsize(), self._concurrency - len(self._threads)
        if not waiting or not lacking:
            return math.inf
        now = self._sockets.clock()
        if now >= self._more_hands_at:
            for _ in range(min(waiting, lacking, len(self._threads))):
                self._add_hand()
            self._more_hands_at = now + HANDS_AFTER
        return self._more_hands_at

    def _add_hand(self) -> None:
        name = f"armin handler {len(self._threads) + 1}"
        thread = threading.Thread(target=self._handle_all, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _handle_all(self) -> None:
        while (effect := self._effects.get()) is not None:
            outcome = self._handle(effect)
            self._inbox.put(partial(self._finished, effect, outcome))

    def _handle(self, effect: Effect) -> Failure | None:
        try:
            if self._whole:
                self._complete(effect)
            self._handler(effect)
        except BaseException as error:  # noqa: BLE001 - goes to the log and to the engine
            return failure(effect, error)
        return None

    def _complete(self, effect: Effect) -> None:
        call = missing(effect.event)
        if call is None:
            return
        for attempt in range(READ_ATTEMPTS):
            if attempt:
                time.sleep(READ_PAUSE)
            try:
                with self._sockets.channel() as channel:
                    effect.event = completed(effect.event, channel.request(call))
                return
            except ArminError as error:
                if not error.retry or attempt + 1 == READ_ATTEMPTS:
                    raise

    def _finished(self, effect: Effect, outcome: Failure | None, now: float) -> None:
        self._work.finished(effect, outcome)

    def _end_threads(self) -> None:
        for calls in self._calls.values():
            calls.put(None)
        for _ in self._threads:
            self._effects.put(None)


def _raise(error: BaseException, now: float) -> None:
    raise error
