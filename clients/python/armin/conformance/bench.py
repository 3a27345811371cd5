"""One engine under test: what every case needs of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

import zmq

from armin import absence, replies
from armin.conformance.matching import Difference, same, shown
from armin.conformance.peers import Context, Nonsense, Peer, Silence
from armin.conformance.tap import FACT_TOPICS, Batch, Heard, Outlet, Tap
from armin.errors import ProtocolError
from armin.target import Target

BURST: Final = 1_000  # facts of one step; of more, a subscriber may miss some
BEHIND: Final = ("heartbeat/", "~sync/", "goodbye/")  # behind all events up to their position
QUIET_S: Final = 0.2  # without an effect: those of the past have all come


class Control(Protocol):
    """Power over the engine, where the suite owns it. Each returns when it is done."""

    def fail_writes(self) -> None:
        """From now on no write of the engine's reaches its disk."""

    def allow_writes(self) -> None:
        """End that."""

    def terminate(self) -> None:
        """End it as an operator would, and wait for its end."""

    def kill(self) -> None:
        """End it as a power cut would."""

    def start(self) -> None:
        """Start it on the same file and the same endpoints, and wait until it serves."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a step has committed, as `log` has it, and what the live socket carried meanwhile.

    `cut`: the engine was killed meanwhile, and what was on its way to subscribers died with it.
    """

    before: int
    events: list[dict[str, Any]]
    heard: Batch
    cut: bool = False


class Bench:
    """Sockets to one engine, and where its log ends. timeout: seconds for each reply.

    Raises NoReply or ProtocolError where no engine of this protocol answers.
    """

    def __init__(self, target: Target, timeout: float, run: str, control: Control | None = None) -> None:
        self.target = target
        self.timeout = timeout
        self.run = run  # begins every name that the cases give
        self.control = control
        self.is_up = True
        self._was_killed = False  # since the last `settle`
        self.context: Context = zmq.Context()
        self._own = Peer(self.context, target.commands)
        self._tokens = 0
        try:
            self.hello = self._first_hello()
            self.position: int = self.hello["position"]
            live = self._endpoint("live")
            self._tap = Tap(self.context, live, self._sync)
            self._first_sync(live)
        except BaseException:
            self.context.destroy(linger=0)
            raise

    def _first_hello(self) -> dict[str, Any]:
        try:
            fields = self.ask("hello")
            replies.hello(fields)
        except Silence:
            raise absence.no_reply(self.target, self.timeout, sent=True, writes=False) from None
        except Nonsense as error:
            raise ProtocolError(str(error)) from None
        return fields

    def _first_sync(self, live: str) -> None:
        try:
            self.settle()
        except Silence:
            raise absence.no_live(live, self.timeout) from None
        except Nonsense as error:
            raise ProtocolError(str(error)) from None

    def _endpoint(self, socket: str) -> str:
        hello = replies.hello(self.hello)
        return self.target.live(hello) if socket == "live" else self.target.effects(hello)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every socket."""
        self.context.destroy(linger=0)

    # --- asking ---

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The fields of the reply to a command of the suite's own. Raises Silence, Nonsense."""
        self._own.send({"op": op, **fields})
        try:
            reply = self._own.receive(self.deadline()).fields
        except Silence:
            self._own.abandon()
            raise
        if reply.get("ok") is not True or type(reply.get("position")) is not int:
            raise Nonsense(f"{op} is answered with {shown(repr(reply))}")
        return reply

    def deadline(self, wait_ms: int = 0) -> float:
        """Until when a reply must be there."""
        return time.monotonic() + self.timeout + wait_ms / 1000

    def _sync(self, token: str) -> None:
        self.ask("sync", token=token)

    # --- what was committed ---

    def settle(self) -> Settled:
        """What was committed since the last time. Raises Silence, Nonsense."""
        self._tokens += 1
        before = self.position
        heard, self.position = self._tap.until_sync(f"{self.run}t{self._tokens}", self.deadline())
        cut, self._was_killed = self._was_killed, False
        return Settled(before, self._log(before, self.position), heard, cut)

    def _log(self, after: int, last: int) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while after + len(events) < last:
            left = last - after - len(events)  # no more: others may still be writing
            page = self.ask("log", after=after + len(events), limit=left)
            if type(page.get("events")) is not list or not page["events"]:
                raise Nonsense(f"the log ends at {last}, but {shown(repr(page))} follows {after}")
            events += page["events"]
        return events

    def listen(self, batch: Batch, wanted: Any) -> bool:
        """Hear until something wanted comes; whether it does."""
        return self._tap.until(wanted, batch, self.deadline())

    def outlet(self) -> Outlet:
        """A worker on the effects socket that has taken all effects of the past."""
        outlet = Outlet(self.context, self._endpoint("effects"))
        while True:
            try:
                outlet.next(time.monotonic() + QUIET_S)
            except Silence:
                return outlet

    # --- power over it ---

    def do(self, control: str) -> None:
        """Do what a step says to the engine itself."""
        assert self.control is not None, "a case that needs it is not played without"
        getattr(self.control, control)()
        if control in ("terminate", "kill"):
            self.is_up = False
            self._was_killed |= control == "kill"
        elif control == "start":
            self.is_up = True
            self.hello = self.ask("hello")

    def restore(self) -> None:
        """Have the engine running, its disk well."""
        if self.control is not None:
            self.control.allow_writes()
            if not self.is_up:
                self.do("start")


def contradictions(settled: Settled) -> Iterator[Difference]:
    """Where positions are not dense, or the live socket does not say what `log` says, in its order."""
    positions = [event.get("position") for event in settled.events]
    dense = list(range(settled.before + 1, settled.before + 1 + len(positions)))
    if positions != dense:
        yield Difference("log", f"the positions {shown(repr(dense))}", shown(repr(positions)))
        return
    facts = settled.heard.facts
    complete = len(positions) <= BURST and not settled.cut
    if complete and len(facts) != len(positions):
        missing = f"{len(positions)} events behind position {settled.before}, as in the log"
        yield Difference("live", missing, f"{len(facts)}: {shown(repr([fact.event for fact in facts]))}")
        return
    last = settled.before
    for index, heard in enumerate(settled.heard.heard):
        position = heard.event.get("position")
        if heard.is_fact:
            yield from _contradiction(heard, settled, last, f"live[{index}]")
            last = position if type(position) is int else last
        elif complete and heard.topic.startswith(BEHIND) and (type(position) is not int or position > last):
            yield Difference(
                f"live[{index}].position", f"at most {last}, the last event's", shown(repr(position))
            )


def _contradiction(heard: Heard, settled: Settled, last: int, path: str) -> Iterator[Difference]:
    position = heard.event.get("position")
    if type(position) is not int or not last < position <= settled.before + len(settled.events):
        yield Difference(f"{path}.position", f"one above {last}", shown(repr(position)))
        return
    event = settled.events[position - settled.before - 1]
    if not same(event, heard.event):
        yield Difference(path, f"as in the log, {shown(repr(event))}", shown(repr(heard.event)))
    topic = FACT_TOPICS.get(str(event.get("type")), "").format(event.get("session_id"))
    if topic and heard.topic != topic:
        yield Difference(f"{path}, its topic", topic, shown(heard.topic))
