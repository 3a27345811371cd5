"""The loop: wait, drain, commit, derive and publish, emit, answer."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from typing import Any, Final, NamedTuple

import zmq

from armin_broker import protocol, replies
from armin_broker.backups import Backups
from armin_broker.command_socket import Arrival, CommandSocket, Unrendered, monotonic_ms
from armin_broker.commands import InternalFault, ShuttingDown, parse
from armin_broker.config import Config
from armin_broker.coordination import Changed, Coordination
from armin_broker.effects_socket import EffectsSocket
from armin_broker.groups.commands import CreateGroup
from armin_broker.groups.coordinator import Coordinator
from armin_broker.health import health
from armin_broker.live_socket import LiveSocket
from armin_broker.parsed import Barrier, Change, Lease, Parsed, Pipeline, Read, Write
from armin_broker.sender import Sender
from armin_broker.statistics import Connections, NoConnections, Statistics
from armin_broker.turns import Turns
from armin_broker.verification import Verifier
from armin_engine import Armin
from armin_engine.errors import BadRequest, EngineError
from armin_engine.plan import Outcome
from armin_engine.records import Command

logger = logging.getLogger(__name__)

BEHIND_POLL_MS: Final = 5  # between looks at peers that are behind
VERIFY_POLL_MS: Final = 1  # between looks at a verification's thread
FINISH_MS: Final = 1000  # for replies that wait, and for refusals, before the sockets close


class _Entry(NamedTuple):
    """One command of a group."""

    arrival: Arrival
    parsed: Parsed | EngineError


def _writes(parsed: Parsed | EngineError) -> Sequence[Write]:
    """What a command adds to the group commit."""
    if isinstance(parsed, Write):
        return (parsed,)
    return [part for part in parsed.parts if isinstance(part, Write)] if isinstance(parsed, Pipeline) else ()


class Loop:
    """Serves one engine through three sockets, in one thread, until it is told to stop."""

    def __init__(
        self,
        armin: Armin,
        config: Config,
        commands: CommandSocket,
        live: LiveSocket,
        effects: EffectsSocket,
        wake: int,
        endpoints: dict[str, dict[str, Any]],
        clock: Callable[[], float] = monotonic_ms,
        wall_clock: Callable[[], float] = time.time,
        alive: Callable[[], None] = lambda: None,
        connections: Connections | None = None,
        observe: Callable[[Loop], None] = lambda loop: None,
    ) -> None:
        self.armin = armin
        self.engine_id = uuid.uuid4().hex  # new at each start: followers see that they must look again
        self._config = config
        self._commands = commands
        self._live = live
        self._effects = effects
        self._wake = wake
        self._endpoints = endpoints
        connections = connections or NoConnections()
        self._connections_max = connections.limit
        self._clock = clock
        self._wall_clock = wall_clock
        self._alive = alive  # called with each heartbeat
        self._observe = observe  # so is this, with what it may ask
        self._version = metadata.version("armin")
        self._verifier = Verifier(armin)
        self._backups = Backups(config)
        self._next_heartbeat = clock()
        self.statistics = Statistics(armin, commands, live, effects, connections, self._next_heartbeat)
        self._turns = Turns(config.group_commands_max, config.group_bytes_max)
        self._stopping = False
        self._arrivals: deque[Arrival] = deque()  # drained, and left to the next turn
        self._is_worker_ready = True  # to take effects that wait, as far as is known
        self._poller = zmq.Poller()
        self._poller.register(commands.socket, zmq.POLLIN)
        self._poller.register(wake, zmq.POLLIN)
        self._coordination = Coordination(armin, commands, self._apply, self._fault, clock, wall_clock)
        armin.live.attach(live)
        commands.answer = self._answer
        commands.restate = lambda reply: replies.at_position(reply, armin.position)

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            deadline = self._tick()
            if not self._arrivals:
                self._wait(deadline)
                self._arrivals.extend(self._drain())
            if self._arrivals or self._coordination.is_due():
                self._take_turn()
        self._finish()

    def stop(self) -> None:
        """Ask the loop to end; from a signal handler, with a byte on the wake descriptor behind it."""
        self._stopping = True

    # --- one turn ---------------------------------------------------------------------------------

    def _tick(self) -> float:
        """Do what is due; returns the next deadline."""
        now = self._clock()
        if now >= self._next_heartbeat:
            self._announce(protocol.HEARTBEAT_TOPIC, "heartbeat", time=int(self._wall_clock() * 1000))
            self._alive()
            self._end_second(now)
            self._next_heartbeat = now + protocol.HEARTBEAT_MS
        deadline = self._next_heartbeat
        if self._effects.backlog and (self._arrivals or self._is_worker_ready):
            self._effects.flush()
        ready = self._commands.flush()
        if self._commands.behind:
            deadline = min(deadline, now if ready else now + BEHIND_POLL_MS)
        if self._verifier.running:
            self._verifier.step()
            deadline = min(deadline, now + VERIFY_POLL_MS)
        due = self._coordination.deadline()
        return deadline if due is None else min(deadline, due)

    def _end_second(self, now: float) -> None:
        self.statistics.end_second(now)
        self._observe(self)

    def _wait(self, deadline: float) -> None:
        if self._effects.backlog:
            self._poller.register(self._effects.socket, zmq.POLLOUT)
        elif self._effects.socket in self._poller:
            self._poller.unregister(self._effects.socket)
        ready = dict(self._poller.poll(max(0, int(deadline - self._clock() + 1))))
        self._is_worker_ready = self._effects.socket in ready

    def _drain(self) -> list[Arrival]:
        return self._commands.drain(self._turns.commands, self._turns.bytes)

    def _take_turn(self) -> None:
        began = self._clock()
        peers = len({arrival.envelope[0] for arrival in self._arrivals})
        self._serve()
        now = self._clock()
        self._turns.ended(now, peers, now - began, self.armin.counters.commit_ns / 1e6)
        self._commands.render_ms = self._turns.render_ms

    def _serve(self) -> None:
        """Commit and answer what was drained, group by group; a barrier ends a group, enough commands a turn.

        Pipelines are why frames alone do not bound a turn: each may hold as many commands as a whole group.
        """
        group: list[_Entry] = []
        commands = 0
        until = self._clock() + self._turns.intake_ms
        while self._arrivals and commands < self._config.group_commands_max:
            if group and self._clock() >= until:
                break
            arrival = self._arrivals.popleft()
            parsed = self._parse(arrival)
            commands += len(parsed.parts) if isinstance(parsed, Pipeline) else 1
            if isinstance(parsed, Barrier):
                self._commit_and_answer(group)
                group = []
                self._commands.send(arrival.envelope, self._act(parsed.act))
            else:
                group.append(_Entry(arrival, parsed))
        self._commit_and_answer(group)
        if (
            self.armin.delta_messages >= self._config.snapshot_messages
            or self.armin.delta_bytes >= self._config.snapshot_bytes
        ):
            self.armin.refresh_snapshot()

    def _parse(self, arrival: Arrival) -> Parsed | EngineError:
        if arrival.problem is not None:
            return BadRequest(arrival.problem, field="envelope")
        try:
            return parse(arrival.payload, arrival.sender)
        except EngineError as error:
            return error
        except Exception:
            logger.exception("parsing a command of %d bytes failed", len(arrival.payload))
            return InternalFault("the engine failed on this command; its log says more")

    def _commit_and_answer(self, group: Sequence[_Entry]) -> None:
        self.statistics.groups += bool(group)
        writes = [write.command for _, parsed in group for write in _writes(parsed)]
        changes = [parsed.command for _, parsed in group if isinstance(parsed, Change)]
        asked = [
            self._coordination.poll(parsed, arrival.envelope)
            for arrival, parsed in group
            if isinstance(parsed, Lease)
        ]
        outcomes, changed = self._coordination.commit(writes, changes, asked)
        self._answer_group(group, iter(outcomes), iter(changed))
        self._coordination.answer_polls()

    def _answer_group(
        self, group: Sequence[_Entry], outcomes: Iterator[Outcome], changed: Iterator[Changed]
    ) -> None:
        position = self.armin.position
        for arrival, parsed in group:
            if isinstance(parsed, Write):
                self._commands.send(arrival.envelope, self._render(parsed, outcomes, position))
            elif isinstance(parsed, Pipeline):
                each = [self._render(part, outcomes, position) for part in parsed.parts]
                self._commands.send(arrival.envelope, replies.pipeline(position, each))
            elif isinstance(parsed, Read):
                read = Unrendered(partial(self._act, parsed.answer), arrival.payload, arrival.sender)
                self._commands.send(arrival.envelope, read)
            elif isinstance(parsed, Change):
                self._commands.send(arrival.envelope, self._changed(next(changed)))
            elif not isinstance(parsed, Lease):  # polls are answered behind all others, or later
                assert isinstance(parsed, EngineError), "barriers never enter a group"
                self._commands.send(arrival.envelope, self._fault(parsed))

    def _apply(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        try:
            outcomes = self.armin.apply(commands)
        except Exception:
            logger.exception("a group of %d writes failed", len(commands))
            fault = InternalFault("the engine failed on this group; the outcome of its writes is unknown")
            return [fault] * len(commands)
        self.statistics.applied(len(commands), self._clock())
        return outcomes

    def _changed(self, changed: Changed) -> bytes:
        if isinstance(changed, EngineError):
            return self._fault(changed)
        return replies.ok(self.armin.position, changed)

    def _render(self, write: Write | EngineError, outcomes: Iterator[Outcome], position: int) -> bytes:
        if isinstance(write, EngineError):
            return self._fault(write)
        outcome = next(outcomes)
        return self._fault(outcome) if isinstance(outcome, EngineError) else write.render(position, outcome)

    def _answer(self, payload: bytes, sender: Sender) -> bytes:
        """The reply to a read that had to wait, from its command."""
        read = parse(payload, sender)
        assert isinstance(read, Read), "only reads wait unrendered"
        return self._act(read.answer)

    def _act(self, act: Callable[[Loop], bytes]) -> bytes:
        try:
            return act(self)
        except EngineError as error:
            return self._fault(error)
        except Exception:
            logger.exception("a command failed")
            return self._fault(InternalFault("the engine failed on this command; its log says more"))

    def _fault(self, error: EngineError) -> bytes:
        self.statistics.refused(error)
        error.__traceback__ = None  # through it the error holds the turn's commands, and by them itself
        return replies.error(self.armin.position, error)

    # --- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Hand over what waits, refuse what was not taken, say goodbye; at most FINISH_MS."""
        self._verifier.stop()
        self._backups.stop()
        refusal = replies.error(self.armin.position, ShuttingDown("the engine is shutting down"))
        deadline = self._clock() + FINISH_MS
        self._coordination.shut_down(refusal)
        while True:
            arrivals = self._arrivals or self._drain()
            self._arrivals = deque()
            for arrival in arrivals:
                self._commands.send(arrival.envelope, refusal)
            self._commands.flush()
            if not (arrivals or self._commands.behind) or self._clock() >= deadline:
                break
            self._commands.socket.poll(BEHIND_POLL_MS)
        if self._commands.behind:
            logger.warning("some replies were not taken by their peers before the end")
        self._effects.flush()
        self._announce(protocol.GOODBYE_TOPIC, "goodbye")

    # --- what the verbs act on ----------------------------------------------------------------------

    def _announce(self, topic: bytes, kind: str, **fields: Any) -> None:
        identity = self.armin.identity
        self._live.announce(
            topic,
            {
                "type": kind,
                "position": self.armin.position,
                "database": identity.database,
                "epoch": identity.epoch,
                "engine": self.engine_id,
                **fields,
            },
        )

    def publish_sync(self, token: str) -> None:
        """Put a follower's token on the live socket, behind everything committed before."""
        self._announce(protocol.sync_topic(token), "sync", token=token)

    def count_heal(self) -> None:
        """A follower says that it had lost something."""
        self.statistics.heals += 1

    @property
    def groups(self) -> Coordinator:
        """The worker groups."""
        return self._coordination.coordinator

    def create_group(self, command: CreateGroup) -> dict[str, Any]:
        """Create a worker group, on disk; the reply's fields."""
        return self._coordination.create(command)

    def verify(self, job: int | None, at: int | None) -> dict[str, Any]:
        """Start a verification, or look at one."""
        return self._verifier.ask(job, at)

    def backup(self, name: str | None, job: int | None) -> dict[str, Any]:
        """Start a backup, or look at one."""
        return self._backups.ask(name, job)

    def hello(self, role: str) -> dict[str, Any]:
        """Who this engine is, what it can do, and what whoever asks may do."""
        identity = self.armin.identity
        return {
            "protocol": protocol.PROTOCOL,
            "version": self._version,
            "features": list(protocol.FEATURES),
            "database": identity.database,
            "epoch": identity.epoch,
            "engine": self.engine_id,
            "endpoints": self._endpoints,
            "limits": {**protocol.LIMITS, "connections": self._connections_max},
            "role": role,
            "durability": protocol.DURABILITY,
        }

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and gauges as they stand."""
        return {
            **self.statistics.fields(self._clock()),
            **self.groups.gauges(),
            **self._backups.gauges(),
        }

    def health(self) -> dict[str, Any]:
        """Whether this engine can do its work."""
        return health(self.armin, is_failing=self.statistics.is_failing(self._clock()))
