"""One case, step by step."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from armin.conformance.bench import Bench, Settled, contradictions
from armin.conformance.cases import MAIN, EngineCase, Json, Step, VectorError
from armin.conformance.matching import Difference, differences, shown
from armin.conformance.peers import Nonsense, Peer, Reply, Silence, unpack_map
from armin.conformance.tap import Batch, Heard, Outlet
from armin.conformance.values import Scope, build, frames, integer

AGAIN_S: Final = 0.01  # between two askings for what must come sooner or later

REPLY: Final = {"ok": {"$type": "boolean"}, "position": {"$range": [0, None]}}
ERROR: Final = {"code": {"$match": "[a-z_]+"}, "message": {"$match": "(?s).+"}, "retry": {"$type": "boolean"}}


class Misshapen(Exception):
    """A reply that is none; `found` says where."""

    def __init__(self, found: list[Difference]) -> None:
        super().__init__()
        self.found = found


class Failure(NamedTuple):
    """What a step (from 1; 0 for the end of the case) came to, against its vector."""

    step: int
    difference: Difference

    def __str__(self) -> str:
        return f"step {self.step}, {self.difference}" if self.step else str(self.difference)


@dataclass(frozen=True, slots=True)
class Said:
    """A reply as somebody else than the bare peer got it; `hidden` are fields that it does not show."""

    fields: dict[str, Any]
    hidden: frozenset[str] = frozenset()


class Speaker(Protocol):
    """Somebody who asks the engine instead of the bare peer: a client of some language."""

    def ask(self, command: dict[str, Any]) -> Said | None:
        """What it says to this command; None where it has no way to send it."""


@dataclass(slots=True)
class _Seat:
    """A peer of the case, replies that came before they were asked for, and what the last one said."""

    peer: Peer
    early: dict[int, Reply] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # commands whose replies were not looked at yet
    position: int = 0


class Player:
    """Plays one case. number: of the case in this run, so that its names are its own."""

    def __init__(self, bench: Bench, case: EngineCase, number: int, speaker: Speaker | None = None) -> None:
        self._bench = bench
        self._case = case
        self._scope = Scope(bench.hello["limits"], f"{bench.run}c{number}")
        self._speaker = speaker
        self._seats: dict[str, _Seat] = {}
        self._groups: list[str] = []
        self._outlet: Outlet | None = None
        self._oks: list[bool] = []  # of the replies of a step, and of those within them

    def play(self) -> list[Failure]:
        """Play it, up to the first step that fails; empty where all was as expected."""
        try:
            if any(step.effects is not None for step in self._case.steps):
                self._outlet = self._bench.outlet()
            for number, step in enumerate(self._case.steps, 1):
                found = self._guarded(step)
                if found:
                    return [Failure(number, each) for each in found]
            return [Failure(0, each) for each in self._strays()]
        finally:
            self._leave()

    def _guarded(self, step: Step) -> list[Difference]:
        self._scope.position = self._bench.position
        self._oks = []
        try:
            return list(self._act(step)) or list(self._aftermath(step))
        except Misshapen as error:
            return error.found
        except Silence:
            return [Difference("$", "a reply", f"nothing within {self._bench.timeout:g} s")]
        except Nonsense as error:
            return [Difference("$", "what the protocol says", str(error))]
        except VectorError as error:
            return [Difference("$", "something that the vector can go on with", str(error))]

    def _strays(self) -> Iterator[Difference]:
        """Replies that no command has asked for; what was answered before `settle` is there by now."""
        for name, seat in self._seats.items():
            if not seat.order and not seat.peer.is_silent():
                yield Difference(f"peer {name}", "one reply to each command", "one more at least")

    def _leave(self) -> None:
        for seat in self._seats.values():
            seat.peer.close()
        if self._outlet is not None:
            self._outlet.close()
        self._bench.restore()
        try:
            for name in self._groups:
                self._bench.ask("drop_group", group=name)
            self._bench.settle()
        except (Silence, Nonsense):
            pass  # the engine has failed the case already, or will fail the next one

    # --- acting ---

    def _act(self, step: Step) -> Iterator[Difference]:
        if step.control is not None:
            self._bench.do(step.control)
            if step.control == "start":
                for seat in self._seats.values():  # what waited for the engine of before gets no answer
                    seat.order.clear()
                    seat.peer.abandon()
        elif step.close:
            self._seats.pop(step.peer).peer.close()
        elif step.frames is not None:
            yield from self._exchange_frames(step)
        elif step.until is not None:
            yield from self._ask_until(step)
        else:
            yield from self._exchange(step)

    def _seat(self, name: str) -> _Seat:
        if name not in self._seats:
            how = self._case.peers.get(name, {})
            peer = Peer(self._bench.context, self._bench.target.commands, **how)
            self._seats[name] = _Seat(peer)
        return self._seats[name]

    def _exchange(self, step: Step) -> Iterator[Difference]:
        expected = _expected(step.expect, self._scope)
        seat, wait_ms = self._seat(step.peer), 0
        if step.send is not None:
            built = build(step.send, self._scope)
            sent = built if isinstance(built, list) else [built]
            self._remember_groups(sent)
            if len(sent) == len(expected) == 1 and not step.closed:
                said = self._ask_speaker(step, sent[0])
                if said is not None:
                    yield from self._judge_said(expected[0], said)
                    return
            seat.order += [seat.peer.send(command) for command in sent]
            wait_ms = max(map(_wait_ms, sent), default=0)
        if step.closed:
            yield from self._must_be_closed(seat)
        elif step.expect is not None:
            yield from self._judge_replies(seat, expected, step, wait_ms)

    def _remember_groups(self, sent: Sequence[Any]) -> None:
        for command in sent:
            if isinstance(command, dict) and command.get("op") == "create_group":
                name = command.get("group")
                if isinstance(name, str) and name.startswith(self._scope.unique):
                    self._groups.append(name)

    def _ask_speaker(self, step: Step, command: Any) -> Said | None:
        idle = step.peer == MAIN and not (MAIN in self._seats and self._seats[MAIN].order)
        if self._speaker is None or not idle or not isinstance(command, dict):
            return None
        return self._speaker.ask(command)

    def _judge_said(self, expected: Json, said: Said) -> Iterator[Difference]:
        self._oks.append(said.fields.get("ok") is True)
        visible = {name: value for name, value in expected.items() if name not in said.hidden}
        yield from differences(visible, said.fields, self._scope)

    def _judge_replies(
        self, seat: _Seat, expected: Sequence[Json], step: Step, wait_ms: int
    ) -> Iterator[Difference]:
        numbers, seat.order = seat.order[: len(expected)], seat.order[len(expected) :]
        if len(numbers) < len(expected):
            raise VectorError(f"{len(expected)} replies are expected to {len(numbers)} commands")
        missing = {number for number in numbers if number not in seat.early}
        while missing:
            reply = seat.peer.receive(self._bench.deadline(wait_ms))
            missing.discard(reply.number)
            yield from self._judge_form(reply.fields, seat)
            seat.early[reply.number] = reply
        for index, (number, each) in enumerate(zip(numbers, expected, strict=True)):
            path = "$" if len(numbers) == 1 else f"$[{index}]"
            reply = seat.early.pop(number)
            self._oks += _oks(reply.fields)
            with self._scope.at(index):
                yield from differences(each, reply.fields, self._scope, path)
            if step.size is not None:
                yield from differences(step.size, reply.size, self._scope, f"{path} in bytes")

    def _judge_form(self, fields: dict[str, Any], seat: _Seat) -> Iterator[Difference]:
        """What is true of every reply."""
        yield from self._judge_shape(fields, "$")
        for index, each in enumerate(_within(fields)):
            yield from self._judge_shape(each, f"$.replies[{index}]")
            if each["position"] > fields["position"]:
                most = f"at most {fields['position']}, as outside"
                yield Difference(f"$.replies[{index}].position", most, str(each["position"]))
        if fields["position"] < seat.position:
            yield Difference("$.position", f"{seat.position} or more, as before", str(fields["position"]))
        seat.position = fields["position"]

    def _judge_shape(self, fields: Any, path: str) -> Iterator[Difference]:
        found = list(differences(REPLY, fields, self._scope, path))
        if found:
            raise Misshapen(found)
        if fields["ok"] is False:
            yield from differences(ERROR, fields.get("error"), self._scope, f"{path}.error")

    def _must_be_closed(self, seat: _Seat) -> Iterator[Difference]:
        if not seat.peer.was_cut_off(self._bench.deadline()):
            yield Difference("the connection", "closed by the engine", "still open")
        seat.order.clear()

    def _ask_until(self, step: Step) -> Iterator[Difference]:
        deadline = self._bench.deadline()
        while True:
            command = build(step.send, self._scope)
            said = self._ask_speaker(step, command)
            if said is None:
                said = yield from self._ask_bare(self._seat(step.peer), command)
            found = list(self._judge_said(step.until, said))
            if not found or time.monotonic() > deadline:
                yield from found
                return
            time.sleep(AGAIN_S)

    def _ask_bare(self, seat: _Seat, command: Any) -> Generator[Difference, None, Said]:
        number = seat.peer.send(command)
        reply = seat.peer.receive(self._bench.deadline(_wait_ms(command)))
        if reply.number != number:
            raise VectorError("until needs a peer that waits for nothing else")
        yield from self._judge_form(reply.fields, seat)
        return Said(reply.fields)

    def _exchange_frames(self, step: Step) -> Iterator[Difference]:
        assert step.frames is not None
        seat = self._seat(step.peer)
        sent = frames(step.frames, self._scope)
        seat.peer.send_frames(sent)
        if step.closed:
            yield from self._must_be_closed(seat)
            return
        *envelope, packed = seat.peer.receive_frames(self._bench.deadline())
        returned = sent[:-1] if step.envelope is None else frames(step.envelope, self._scope)
        yield from differences({"$is": {"$literal": returned}}, envelope, self._scope, "envelope")
        fields = unpack_map(packed, "the reply")
        yield from self._judge_form(fields, seat)
        self._oks += _oks(fields)
        yield from differences(step.expect, fields, self._scope)

    # --- what came of it ---

    def _aftermath(self, step: Step) -> Iterator[Difference]:
        settled: Settled | None = None
        if self._bench.is_up:
            settled = self._bench.settle()
            yield from contradictions(settled)
            yield from self._judge_events(step, settled.events)
        if step.live is not None:
            yield from self._judge_live(step.live, settled)
        if step.effects is not None:
            yield from self._judge_effects(step.effects)

    def _judge_events(self, step: Step, events: list[dict[str, Any]]) -> Iterator[Difference]:
        if self._oks and not any(self._oks) and events:
            yield Difference("events", "none, as every reply is an error", shown(repr(events)))
        if step.events is not None:
            yield from differences(step.events, events, self._scope, "events")

    def _judge_live(self, expected: list[Json], settled: Settled | None) -> Iterator[Difference]:
        batch = settled.heard if settled is not None else Batch()
        for index, each in enumerate(expected):

            def wanted(heard: Heard, each: Json = each) -> bool:
                found = {"topic": heard.topic, "event": heard.event}
                return not any(differences(each, found, self._scope))

            if not any(map(wanted, batch.others)) and not self._bench.listen(batch, wanted):
                got = [(heard.topic, heard.event) for heard in batch.others]
                yield Difference(f"live[{index}]", shown(repr(each)), shown(repr(got)))

    def _judge_effects(self, expected: list[Json]) -> Iterator[Difference]:
        assert self._outlet is not None, "opened for every case that speaks of effects"
        got: list[dict[str, Any]] = []
        deadline = self._bench.deadline()
        try:
            while len(got) < len(expected):
                got.append(self._outlet.next(deadline))
        except Silence:
            pass  # what came is what there is
        yield from differences(expected, got, self._scope, "effects")


def _expected(value: Json, scope: Scope) -> list[Json]:
    """One reply, several, or the same one so many times."""
    if isinstance(value, dict) and "$list" in value:
        return [value["$list"]] * integer(value["times"], scope)
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _within(reply: dict[str, Any]) -> list[Any]:
    """The replies within the reply to a pipeline."""
    replies = reply.get("replies")
    return replies if isinstance(replies, list) else []


def _oks(reply: dict[str, Any]) -> list[bool]:
    """Whether it is fine, or each of the replies within it."""
    return [each["ok"] for each in _within(reply)] or [reply["ok"]]


def _wait_ms(command: Any) -> int:
    """How long the engine may take over a command."""
    wait_ms = command.get("wait_ms") if isinstance(command, dict) else None
    return wait_ms if type(wait_ms) is int and wait_ms > 0 else 0
