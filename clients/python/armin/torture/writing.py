"""The writers: they create, append and close, write down what they tried and what became of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, Final

from armin.errors import ArminError, NoReply, SessionClosed, ShuttingDown, StorageFailed
from armin.results import Appended, AppendedMany, Message, NewMessage
from armin.torture.content import TAG, digest, message, message_digest
from armin.torture.evidence import EvidenceFile
from armin.torture.script import Action, Ask, Burst, Pause, Script

OPEN_SESSIONS: Final = 6  # kept open by the writers of one process
GIVES_UP: Final = 0.1  # of the writes without an answer, that many are not tried again
BURST_MAX: Final = 40
UNCERTAIN: Final = (NoReply, StorageFailed, ShuttingDown)  # try again with the same key

Asking = Generator[Action, Any, Any]


class Sessions:
    """The sessions that the writers of one process share, and what was acknowledged in each."""

    def __init__(self, open_ids: Sequence[int] = ()) -> None:
        self._lock = threading.Lock()
        self._open = list(open_ids)
        self._acknowledged: dict[int, int] = {}

    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def opened(self, session_id: int) -> None:
        """A session was created."""
        with self._lock:
            self._open.append(session_id)

    def closed(self, session_id: int) -> None:
        """A session takes no more messages."""
        with self._lock:
            if session_id in self._open:
                self._open.remove(session_id)

    def any(self, chance: random.Random) -> int | None:
        """One that is open."""
        with self._lock:
            return chance.choice(self._open) if self._open else None

    def acknowledge(self, session_id: int, seq: int) -> None:
        """The session has messages up to `seq`: every later read must show them."""
        with self._lock:
            self._acknowledged[session_id] = max(seq, self._acknowledged.get(session_id, 0))

    def acknowledged(self, session_id: int) -> int:
        """Up to which seq."""
        with self._lock:
            return self._acknowledged.get(session_id, 0)


class Writer:
    """One writer: one thing after the other, until told to finish; `pace` is the mean pause in seconds."""

    def __init__(
        self,
        name: str,
        chance: random.Random,
        evidence: EvidenceFile,
        sessions: Sessions,
        pace: float,
        finished: Callable[[], bool],
    ) -> None:
        self._name = name
        self._chance = chance
        self._evidence = evidence
        self._sessions = sessions
        self._pace = pace
        self._finished = finished
        self._writes = 0
        self._tries = 0

    def script(self) -> Script:
        """Write until told to finish."""
        while not self._finished():
            yield from self._step()
            yield Pause(self._chance.expovariate(1 / self._pace))

    def _step(self) -> Asking:
        dice = self._chance.random()
        session_id = self._sessions.any(self._chance)
        if session_id is None or (dice < 0.1 and self._sessions.count() < OPEN_SESSIONS):
            yield from self._create()
        elif dice < 0.13:
            yield from self._close(session_id)
        elif dice < 0.25:
            yield from self._append_many(session_id)
        elif dice < 0.35:
            yield from self._burst(session_id)
        else:
            yield from self._append(session_id)

    def _key(self, write: str) -> dict[str, str]:
        """Half of the writes have a key of the writer's, the others leave it to the client."""
        return {"key": write} if self._own_keys(write) else {}

    def _own_keys(self, write: str) -> bool:
        return int(write.rpartition(".")[2]) % 2 == 0

    def _new_name(self) -> str:
        self._writes += 1
        return f"{self._name}.{self._writes}"

    # --- the kinds of writes ------------------------------------------------------------------------

    def _create(self) -> Asking:
        write = self._new_name()
        name = f"named {write} ☃" if self._chance.random() < 0.4 else None
        meta = {TAG: write, "title": "a session"}
        self._try(write, "create_session", 0, [digest(name, meta)])
        session = yield from self._settle(write, Ask("create_session", (name, meta), self._key(write)))
        if session is not None:
            self._done(write, id=session.id, created_at=session.created_at, duplicate=session.duplicate)
            self._sessions.opened(session.id)

    def _close(self, session_id: int) -> Asking:
        write = self._new_name()
        self._try(write, "close_session", session_id, [])
        self._sessions.closed(session_id)
        closed = yield from self._settle(write, Ask("close_session", (session_id,)))
        if closed is not None:
            self._done(write, at=closed.at, duplicate=closed.duplicate)

    def _append(self, session_id: int) -> Asking:
        write = self._new_name()
        ask = self._prepared(write, session_id)
        appended = yield from self._settle(write, ask)
        if appended is not None:
            self._appended(write, session_id, appended)
            yield from self._look(session_id, appended.seq, [_new_message(ask)])

    def _append_many(self, session_id: int) -> Asking:
        write = self._new_name()
        messages = [message(self._chance, f"{write}/{index}") for index in range(self._chance.randint(1, 20))]
        self._try(write, "append_many", session_id, list(map(_digest, messages)))
        ask = Ask("append_many", (session_id, messages), self._key(write))
        appended = yield from self._settle(write, ask)
        if appended is not None:
            self._appended_many(write, session_id, appended)
            yield from self._look(session_id, appended.first_seq, messages)

    def _burst(self, session_id: int) -> Asking:
        writes = [self._new_name() for _ in range(self._chance.randint(2, BURST_MAX))]
        asks = tuple(self._prepared(write, session_id) for write in writes)
        results = yield Burst(asks)
        for write, result in zip(writes, results, strict=True):
            if isinstance(result, Appended):
                self._appended(write, session_id, result)
            elif isinstance(result, ArminError):
                self._failed(write, result)
            else:
                raise result

    def _prepared(self, write: str, session_id: int) -> Ask:
        new = message(self._chance, f"{write}/0")
        self._try(write, "append", session_id, [_digest(new)])
        return Ask("append", (session_id, new.role, new.content, new.meta), self._key(write))

    # --- what became of them --------------------------------------------------------------------------

    def _settle(self, write: str, ask: Ask) -> Asking:
        """Ask, and again while the outcome is unknown; None if it was refused or given up."""
        while True:
            try:
                return (yield ask)
            except UNCERTAIN as error:
                if self._chance.random() < GIVES_UP:
                    self._failed(write, error)
                    return None
                if error.key is not None:
                    ask = replace(ask, options={**ask.options, "key": error.key})
                yield Pause(self._chance.uniform(0.01, 0.1))
            except ArminError as error:
                self._failed(write, error)
                if isinstance(error, SessionClosed):
                    self._sessions.closed(ask.arguments[0])
                return None

    def _look(self, session_id: int, first_seq: int, expected: Sequence[NewMessage]) -> Asking:
        """Read one's own write, now and then."""
        if self._chance.random() > 0.1:
            return
        try:
            page = yield Ask("read", (session_id,), {"after": first_seq - 1, "limit": len(expected)})
        except UNCERTAIN:
            return
        found = [_digest(item) for item in page.messages]
        if found != list(map(_digest, expected))[: len(found)] or not found:
            text = f"{self._name} does not read its own write at seq {first_seq} of session {session_id}"
            self._evidence.write("violation", text=text)

    def _try(self, write: str, op: str, session_id: int, digests: list[str]) -> None:
        self._evidence.write(
            "try", write=write, op=op, session=session_id, digests=digests, own_key=self._own_keys(write)
        )

    def _done(self, write: str, **outcome: Any) -> None:
        self._evidence.write("done", write=write, **outcome)

    def _appended(self, write: str, session_id: int, one: Appended) -> None:
        self._done(
            write,
            first=[one.id, one.seq, one.at],
            created_at=one.created_at,
            duplicate=one.duplicate,
            count=1,
        )
        self._sessions.acknowledge(session_id, one.seq)

    def _appended_many(self, write: str, session_id: int, many: AppendedMany) -> None:
        self._done(
            write,
            first=[many.first_id, many.first_seq, many.first_at],
            created_at=many.created_at,
            duplicate=many.duplicate,
            count=many.count,
        )
        self._sessions.acknowledge(session_id, many.first_seq + many.count - 1)

    def _failed(self, write: str, error: ArminError) -> None:
        if isinstance(error, UNCERTAIN):
            self._evidence.write("unknown", write=write, why=error.code)
            return
        self._evidence.write("refused", write=write, code=error.code)
        if not isinstance(error, SessionClosed):
            text = f"{write} was refused with {error.code}: {error.message}"
            self._evidence.write("violation", text=text)


class Reader:
    """Pages through sessions while they grow: dense, and nothing that was acknowledged is missing."""

    def __init__(
        self,
        chance: random.Random,
        evidence: EvidenceFile,
        sessions: Sessions,
        finished: Callable[[], bool],
    ) -> None:
        self._chance = chance
        self._evidence = evidence
        self._sessions = sessions
        self._finished = finished

    def script(self) -> Script:
        """Read until told to finish."""
        while not self._finished():
            session_id = self._sessions.any(self._chance)
            if session_id is not None:
                try:
                    yield from self._read(session_id)
                except UNCERTAIN:
                    pass  # the engine is away
                except ArminError as error:
                    self._violation(f"reading session {session_id} gave {error.code}: {error.message}")
            yield Pause(0.05)

    def _read(self, session_id: int) -> Asking:
        acknowledged = self._sessions.acknowledged(session_id)
        # From somewhere not too far back: the sessions grow for as long as the campaign lasts.
        cursor, more = self._chance.randint(max(0, acknowledged - 500), acknowledged), True
        while more:
            page = yield Ask("read", (session_id,), {"after": cursor, "limit": self._chance.randint(1, 300)})
            for item in page.messages:
                if item.seq != cursor + 1:
                    self._violation(f"session {session_id} jumps from seq {cursor} to {item.seq}")
                cursor = item.seq
            more = page.more
        self._evidence.write("read", session=session_id, seq=cursor)
        if cursor < acknowledged:
            self._violation(f"session {session_id} ends at seq {cursor}; {acknowledged} was acknowledged")

    def _violation(self, text: str) -> None:
        self._evidence.write("violation", text=text)


def _digest(item: NewMessage | Message) -> str:
    return message_digest(item.role, item.content, item.meta)


def _new_message(ask: Ask) -> NewMessage:
    return NewMessage(*ask.arguments[1:4])
