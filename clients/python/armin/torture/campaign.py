"""The campaign: a real engine, processes that use it, a plan that breaks things, the checks at the end."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import armin
from armin.torture import plan, rest_state
from armin.torture.checks import CHECKS, SEEN
from armin.torture.engine import Fault, KillPoint, Sabotage, TorturedEngine
from armin.torture.evidence import GUEST, EvidenceFile, life_file
from armin.torture.handling import GROUPS
from armin.torture.plan import Kind, Step
from armin.torture.process import COLLEAGUES, FOLLOWERS, WORKERS, WRITERS, Settings
from armin.torture.proxy import CLEAR, Proxy
from armin.torture.report import Report, figures
from armin.torture.tap import Tap
from armin.torture.testimony import Rest, Testimony, heard
from armin.torture.workload import Workload

CLIENT_TIMEOUT: Final = 0.8  # seconds: engines come back fast here
START_S: Final = 90.0  # an engine that takes longer to start is broken; on a busy machine it takes its time
END_S: Final = 90.0  # for each role to come to rest
BACKLOG_SHARE: Final = 0.2  # of the time of breaking, for what the workers are behind
DIE_S: Final = 3.0  # for an engine to come to its kill point
REST_POLL_S: Final = 0.05
PACE_MIN: Final = 0.03  # seconds between two writes of one writer, on average
PACE_GROWTH: Final = 8e-5  # seconds more for each second of the campaign: histories stay at some 250,000


KILLED: Final = {
    Kind.KILL_WRITERS: (WRITERS,),
    Kind.KILL_FOLLOWERS: (FOLLOWERS,),
    Kind.KILL_WORKERS: (WORKERS, COLLEAGUES),
}


def _role(workload: Workload) -> str:
    """What it does, whoever's it is."""
    return workload.role.removeprefix(GUEST)


class _NoEngine(Exception):
    """It was broken and does not start any more."""


class Campaign:
    """One run. `directory` is for the engine's data and the evidence, `sockets` a short path for sockets.

    `guests` is a command that runs writers, followers or workers beside ours, as docs/torture.md says.
    """

    def __init__(
        self,
        seed: int,
        seconds: float,
        directory: Path,
        sockets: Path,
        *,
        sabotage: frozenset[Sabotage] = frozenset(),
        crippled: tuple[str, ...] = (),
        guests: Sequence[str] = (),
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.seed = seed
        self.seconds = seconds
        self._say = say
        self._data = directory / "engine"
        self.evidence = directory / "evidence"
        self._inner, self._outer = sockets / "e", sockets / "p"
        for path in (self.evidence, self._data, self._inner, self._outer):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._engine = TorturedEngine(
            self._data, self.evidence, sabotage=sabotage, options=("--ipc-dir", str(self._inner))
        )
        self._proxy = Proxy(self._outer, self._inner, random.Random(f"proxy {seed}"))
        self._tap = Tap(self._inner, EvidenceFile(life_file(self.evidence, "tap", 1)))
        self._crew = [Workload(self._settings(role, crippled)) for role in (WRITERS, FOLLOWERS)]
        self._workers = [Workload(self._settings(role, crippled)) for role in (WORKERS, COLLEAGUES)]
        if guests:
            self._crew += [
                Workload(self._settings(GUEST + role, ()), guests) for role in (WRITERS, FOLLOWERS)
            ]
            self._workers.append(Workload(self._settings(GUEST + WORKERS, ()), guests))
        self._found: list[str] = []
        self._began = 0.0
        self.report = Report(seed, seconds, power_cuts=self._engine.can_cut)

    def _settings(self, role: str, crippled: tuple[str, ...]) -> Settings:
        pace = PACE_MIN + PACE_GROWTH * self.seconds
        return Settings(
            role, 0, str(self._outer), str(self.evidence), str(self.seed), pace, CLIENT_TIMEOUT, crippled
        )

    def run(self) -> Report:
        """Break things for as long as planned, let all come to rest, and check.

        Raises:
            OSError, RuntimeError: the campaign could not run.
        """
        try:
            self._begin()
            try:
                self._break()
                testimony = self._rest()
            except _NoEngine as error:
                self._found.append(f"the engine does not come back: {error}")
                testimony = heard(self.evidence)
                testimony.found += self._found
                self._judge(testimony, [SEEN])
            else:
                self._judge(testimony, CHECKS)
        finally:
            self._end()
        self.report.seconds = time.monotonic() - self._began
        return self.report

    def _break(self) -> None:
        """Do what is planned."""
        for step in self._plan():
            self._pause(step.after)
            self._heed_death()
            self._tell(f"{step.number:3}  {step}")
            self._do(step)

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {text}")

    def _plan(self) -> tuple[Step, ...]:
        return plan.plan(
            self.seed,
            self.seconds,
            points=self._engine.points,
            faults=self._engine.faults,
            power_cuts=self._engine.can_cut,
        )

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._engine.start(timeout=START_S)
        self._proxy.start()
        self._tap.start()
        with armin.connect(self._inner) as client:
            if "groups" in client.hello().features:
                self._crew += self._workers
        for workload in self._crew:
            workload.start()
        deadline = time.monotonic() + START_S
        while not all(workload.at_work for workload in self._crew):
            if time.monotonic() > deadline:
                raise RuntimeError("the processes of the campaign do not come to work")
            self._pause(REST_POLL_S)

    # --- breaking ---------------------------------------------------------------------------------

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def _heed_death(self) -> None:
        """An engine that died without being killed is a finding; go on with a new one."""
        if not self._engine.alive:
            self._found.append("the engine died by itself")
            self._start()
        for workload in self._crew:
            self._found += workload.crashes
            workload.crashes.clear()

    def _do(self, step: Step) -> None:
        self.report.breakage[step.kind] += step.kind is not Kind.DIE
        self.report.breakage[Kind.POWER_CUT] += step.cut
        match step.kind:
            case Kind.KILL:
                self._engine.kill()
            case Kind.DIE:
                self._die(step)
            case Kind.POWER_CUT:
                self._cut_power(step)
            case Kind.RESTART:
                self._end_engine()
            case Kind.PAUSE:
                self._engine.pause()
                self._pause(step.lasts)
                self._engine.resume()
            case Kind.FAULT:
                self._fault(step)
            case Kind.WEATHER:
                self._proxy.weather = plan.WEATHERS[step.what]
            case Kind.CUT:
                self._proxy.cut()
            case Kind.KILL_WRITERS | Kind.KILL_FOLLOWERS | Kind.KILL_WORKERS:
                self._kill_crew(step)
        if not self._engine.alive:
            self._start()

    def _start(self, die_at: KillPoint | None = None, passing: int = 1) -> None:
        """Start it again. Raises _NoEngine: then what was done to it has broken it."""
        try:
            self._engine.start(die_at=die_at, passing=passing, timeout=START_S)
        except RuntimeError as error:
            raise _NoEngine(str(error)) from error

    def _die(self, step: Step) -> None:
        for _ in range(1 + step.twice):
            self._engine.kill()
            self._start(KillPoint(step.what), step.passing)
            died = self._engine.wait_dead(DIE_S)
            self.report.breakage[f"die {step.what if died else '(not come to)'}"] += 1
        if step.cut:
            self._cut_power(step)
        else:
            self._engine.kill()

    def _cut_power(self, step: Step) -> None:
        cut = self._engine.power_cut(random.Random(step.seed))
        self.report.breakage["power cuts with something unsynced"] += cut.unsynced > 0
        self._say(f"{'':17}{cut}")

    def _fault(self, step: Step) -> None:
        self._engine.fail(Fault(step.what))
        self._pause(step.lasts)
        if step.killed:
            self._engine.kill()
        self._engine.fail(None)

    def _kill_crew(self, step: Step) -> None:
        """One of those who do the same is killed, and begins a new life."""
        alike = [workload for workload in self._crew if _role(workload) in KILLED[step.kind]]
        if alike:  # without worker groups there are no workers
            workload = alike[step.number % len(alike)]
            workload.kill()
            workload.start()

    # --- the end ------------------------------------------------------------------------------------

    def _rest(self) -> Testimony:
        """Mend everything, let everybody finish, and take the testimony."""
        self._tell("     calm: all come to rest")
        self._proxy.weather = CLEAR
        self._engine.fail(None)
        self._heed_death()
        rest = Rest()
        self._finish(WRITERS, {})
        try:
            self._rest_of_crew(rest)
        except armin.ArminError as error:
            self._found.append(f"at the end the engine answers {error.code}: {error.message}")
        self._tap.stop()
        self._end_engine()
        self._tell("     checking")
        rest_state.read_file(self._data, rest)
        testimony = heard(self.evidence)
        testimony.rest = rest
        testimony.found += self._found
        return testimony

    def _rest_of_crew(self, rest: Rest) -> None:
        """Those who must come to the end of what was written: followers and workers."""
        with armin.connect(self._inner, timeout=END_S) as client:
            rest_state.ask_engine(client, rest)
            tails = {session_id: (seq, closed) for session_id, (closed, seq) in rest.sessions.items()}
            self._finish(FOLLOWERS, {"position": len(rest.engine), "tails": tails})
            if self._workers[0] in self._crew:
                self._await_groups(client)
                rest_state.ask_groups(client, GROUPS, rest)
                self._finish(WORKERS, {})
                self._finish(COLLEAGUES, {})

    def _end_engine(self) -> None:
        try:
            code = self._engine.stop()
        except subprocess.TimeoutExpired:
            self._found.append("the engine did not stop when told to")
            return
        if code != 0:
            self._found.append(f"the engine ended with {code} when told to stop")

    def _await_groups(self, client: armin.Client) -> None:
        """Wait until every effect was handled or given up; a long campaign leaves more of them behind."""
        deadline = time.monotonic() + END_S + BACKLOG_SHARE * self.seconds
        while any(group.behind or group.waiting or group.leased for group in client.groups()):
            if time.monotonic() > deadline:
                self._found.append(f"the groups do not come to rest: {client.groups()}")
                return
            self._pause(REST_POLL_S)

    def _finish(self, role: str, order: dict[str, object]) -> None:
        for workload in self._crew:
            if _role(workload) == role:
                workload.finish(order)
                problem = workload.wait(END_S)
                if problem is not None:
                    self._found.append(problem)
                self._tell(f"     {role} have finished")

    def _end(self) -> None:
        """Nothing of the campaign outlives it."""
        for workload in self._crew:
            workload.kill()
        if self._engine.alive:
            self._engine.kill()
        self._proxy.stop()
        self._tap.stop()

    def _judge(self, testimony: Testimony, names: Iterable[str]) -> None:
        for name in names:
            findings = list(CHECKS[name](testimony))
            if findings:
                self.report.violations[name] = findings
        self.report.breakage += self._proxy.counts
        self.report.figures = figures(testimony)
