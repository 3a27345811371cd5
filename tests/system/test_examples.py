"""The bare examples of docs/examples, in both languages, against a real engine that is ill-treated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import armin
from armin_broker import protocol
from between import cable, event_proxy
from harness import Engine, Peer, wait_until
from node_client import built, node
from proxy import LossyProxy

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LEASE_MS = 3000
# What a worker runs: it says that it has begun, and ends when the gate is opened.
AT_THE_GATE = "echo $ARMIN_POSITION $ARMIN_ATTEMPT >> begun; while test ! -e gate; do sleep 0.02; done"


@dataclass
class Run:
    """An example that runs."""

    process: subprocess.Popen[str]
    out: Path
    err: Path

    def lines(self) -> list[str]:
        """What it has printed, whole lines."""
        return self.out.read_text("utf-8").rpartition("\n")[0].splitlines()

    def prints(self, count: int) -> None:
        """Wait until it has printed so many lines."""
        wait_until(lambda: len(self.lines()) >= count)

    def said(self) -> str:
        """What it has told on stderr."""
        return self.err.read_text("utf-8")

    def ended(self, seconds: float = 30) -> list[str]:
        """What it has printed, once it has ended well."""
        assert self.process.wait(seconds) == 0, self.said()
        return self.lines()


Start = Callable[..., Run]


@pytest.fixture(params=["python", "javascript"])
def start(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Start]:
    """Starts an example of one language in an empty directory: `start("request", directory, ...)`."""
    place = short_dir / "examples"
    if request.param == "python":
        shutil.copytree(
            EXAMPLES, place, ignore=shutil.ignore_patterns("__pycache__", "node_modules", "*.mjs")
        )
        command, ending = sys.executable, "py"
    else:
        command, ending = node(), "mjs"
        shutil.copytree(EXAMPLES, place, ignore=shutil.ignore_patterns("__pycache__", "node_modules", "*.py"))
        (place / "node_modules").symlink_to(built("node_modules"))
    runs: list[Run] = []

    def run(name: str, *arguments: object) -> Run:
        out, err = (short_dir / f"{len(runs)}-{name}.{stream}" for stream in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [command, str(place / f"{name}.{ending}"), *map(str, arguments)],
                cwd=short_dir,
                stdout=stdout,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONUTF8": "1"},
            )
        runs.append(Run(process, out, err))
        return runs[-1]

    yield run
    for each in runs:
        each.process.kill()
        each.process.wait()


def session_of(peer: Peer, *contents: str) -> int:
    """A new session with these messages."""
    session: int = peer.ask("create_session")["session"]["id"]
    for content in contents:
        append(peer, session, content)
    return session


def append(peer: Peer, session: int, content: str) -> None:
    """One message more."""
    assert peer.ask("append", session_id=session, role="user", content=content)["ok"]


def contents(lines: list[str]) -> list[str]:
    """What a follower has printed, which begins with the first message and has no gap."""
    messages = [json.loads(line) for line in lines]
    assert [message["seq"] for message in messages] == list(range(1, len(messages) + 1))
    return [message["content"] for message in messages]


def group(peer: Peer, name: str) -> dict[str, Any]:
    """How a worker group stands."""
    found: dict[str, Any] = peer.ask("groups", group=name)["groups"][0]
    return found


def all_handled(peer: Peer, name: str) -> bool:
    """Whether nothing is left to do for a group."""
    it = group(peer, name)
    return not (it["behind"] or it["waiting"] or it["leased"] or it["dead"])


def outcomes(run: Run, op: str) -> list[tuple[int, int, dict[str, Any]]]:
    """What became of a worker's acks, nacks or extends: position, attempt, outcome."""
    words = [line.split(" ", 3) for line in run.lines() if line.startswith(f"{op} ")]
    return [(int(position), int(attempt), json.loads(outcome)) for _, position, attempt, outcome in words]


# --- the table ------------------------------------------------------------------------------------


def test_the_readme_names_every_example_in_both_languages() -> None:
    told = (EXAMPLES / "README.md").read_text("utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".mjs")}
    assert {name for name in names if name in told} == names
    python, javascript = ({Path(name).stem for name in names if name.endswith(end)} for end in ("py", "mjs"))
    assert python == javascript - {"wire"} == {"request", "follower", "puller", "worker"}


# --- request --------------------------------------------------------------------------------------


def test_a_request_that_is_made_twice_doubles_nothing(engine: Engine, peer: Peer, start: Start) -> None:
    history = ["1 user Grüß dich ☕", "2 assistant hi!"]
    assert start("request", engine.directory, "mine").ended() == ["appended: 1", "appended: 2", *history]
    assert start("request", engine.directory, "mine").ended() == ["was there: 1", "was there: 2", *history]
    assert start("request", engine.directory).ended()[:2] == ["appended: 1", "appended: 2"]
    assert len(peer.ask("sessions")["sessions"]) == 2
    assert peer.ask("ping")["position"] == 6


def test_a_request_whose_replies_are_lost_is_sent_again(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    between = short_dir / "between"
    between.mkdir()
    endpoint = f"ipc://{between}/commands.sock"
    with LossyProxy(endpoint, engine.endpoint("commands"), drop=0.35, cut=0.1, seed=5) as proxy:
        for _ in range(2):
            assert start("request", between, "mine").ended(60)[-2:] == [
                "1 user Grüß dich ☕",
                "2 assistant hi!",
            ]
    assert proxy.dropped >= 2
    assert proxy.cuts >= 1
    assert peer.ask("ping")["position"] == 3


def test_a_request_without_an_engine_ends_with_an_error(short_dir: Path, start: Start) -> None:
    run = start("request", short_dir)
    assert run.process.wait(90) != 0
    assert "no engine answers" in run.said()


# --- follower -------------------------------------------------------------------------------------


def test_a_follower_prints_history_then_live_messages_until_the_session_is_closed(
    engine: Engine, peer: Peer, start: Start
) -> None:
    other = session_of(peer, "of another session")
    session = session_of(peer, "old", "\ufeffélder\0\n", "")
    run = start("follower", engine.directory, session)
    behind = start("follower", engine.directory, session, 2)
    run.prints(3)
    large = "☕" * 40_000
    for content in ("new", large, "\ufeff" * 30_000, "last"):
        append(peer, session, content)
        append(peer, other, "elsewhere")
    meta = {"__proto__": {"": None}, "large": 2**63 - 1}
    assert peer.ask("append", session_id=session, role="tool", content="with a meta", meta=meta)["ok"]
    assert peer.ask("close_session", session_id=session)["ok"]
    assert contents(run.ended()) == [
        "old",
        "\ufeffélder\0\n",
        "",
        "new",
        large,
        "\ufeff" * 30_000,
        "last",
        "with a meta",
    ]
    assert [json.loads(line)["seq"] for line in behind.ended()] == [3, 4, 5, 6, 7, 8]


def test_a_follower_reads_what_the_live_socket_lost(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    session = session_of(peer)
    seen = 0

    def drops(topic: bytes, _event: bytes) -> bool:
        nonlocal seen
        seen += topic.startswith(b"message/")
        return seen % 3 == 0 and topic.startswith((b"message/", b"closed/"))

    with event_proxy(engine.directory, short_dir / "between", drops) as between:
        run = start("follower", between, session)
        wait_until(lambda: "in sync" in run.said())
        for number in range(40):
            append(peer, session, f"message {number}")
        while seen % 3:  # the last message and the end are lost, too: a heartbeat tells
            append(peer, session, "one more")
        assert peer.ask("close_session", session_id=session)["ok"]
        lines = run.ended()
    assert contents(lines)[:40] == [f"message {number}" for number in range(40)]
    assert len(lines) == peer.ask("session", session_id=session)["session"]["seq"]


def test_a_follower_comes_back_when_the_live_socket_was_silent(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    session = session_of(peer, "before")
    with cable(engine.directory, short_dir / "between") as (between, live):
        run = start("follower", between, session)
        run.prints(1)
        wait_until(lambda: "in sync" in run.said())
        live.cut()
        append(peer, session, "meanwhile")
        wait_until(lambda: "engine gone" in run.said())
        run.prints(2)  # it reads while the live socket is away
        before = run.said().count("in sync")
        live.mend()
        wait_until(lambda: run.said().count("in sync") > before)
        append(peer, session, "after")
        assert peer.ask("close_session", session_id=session)["ok"]
        assert contents(run.ended()) == ["before", "meanwhile", "after"]


def test_a_follower_survives_engines_that_are_killed_and_stopped_under_a_writer(
    engine: Engine, start: Start
) -> None:
    count = 400
    with armin.connect(str(engine.directory), timeout=60) as client:
        session = client.create_session().id
        written: list[int] = []

        def write() -> None:
            for number in range(count):
                run.prints(number - 20)  # so that engines end while it follows
                written.append(client.append(session, "user", f"message {number}").seq)
            client.close_session(session)

        run = start("follower", engine.directory, session)
        wait_until(lambda: "in sync" in run.said())
        writer = threading.Thread(target=write)
        writer.start()
        for end, reached in ((engine.kill, 50), (engine.stop, 150), (engine.kill, 250)):
            run.prints(reached)
            end()
            engine.start()
        lines = run.ended(60)
        writer.join()
    assert written == list(range(1, count + 1))
    assert contents(lines) == [f"message {number}" for number in range(count)]
    assert "engine gone" in run.said()


def test_a_follower_waits_for_its_engine_without_end(engine: Engine, start: Start) -> None:
    with engine.peer() as peer:
        session = session_of(peer, "before")
    run = start("follower", engine.directory, session)
    run.prints(1)
    engine.stop()
    wait_until(lambda: run.said().count("engine gone") > 1, what="one command was given up, and it goes on")
    engine.start()
    with engine.peer() as peer:
        append(peer, session, "after")
        assert peer.ask("close_session", session_id=session)["ok"]
    assert contents(run.ended()) == ["before", "after"]


def test_a_follower_refuses_another_database(engine: Engine, short_dir: Path, start: Start) -> None:
    with engine.peer() as peer:
        session = session_of(peer, "one")
    run = start("follower", engine.directory, session)
    run.prints(1)
    engine.stop()
    for path in engine.directory.glob(f"{protocol.DATABASE_FILE}*"):
        path.unlink()
    engine.start()
    with engine.peer() as peer:
        assert session_of(peer, "uno", "due") == session
    assert run.process.wait(90) != 0
    assert "cursor_invalid" in run.said()
    assert contents(run.lines()) == ["one"]


def test_a_follower_goes_on_from_a_cursor_of_its_epoch_and_refuses_another(
    engine: Engine, start: Start
) -> None:
    with engine.peer() as peer:
        session = session_of(peer, "one", "two")
        assert peer.ask("close_session", session_id=session)["ok"]
        epoch = peer.ask("hello")["epoch"]
    run = start("follower", engine.directory, session, 1, epoch)
    assert [json.loads(line)["content"] for line in run.ended()] == ["two"]
    assert f"epoch {epoch}" in run.said()
    run = start("follower", engine.directory, session, 1, "0" * 32)
    assert run.process.wait(90) != 0
    assert "cursor_invalid" in run.said()
    assert run.lines() == []


def test_a_follower_of_no_session_ends_with_an_error(engine: Engine, start: Start) -> None:
    run = start("follower", engine.directory, 7)
    assert run.process.wait(90) != 0
    assert "session_not_found" in run.said()


def test_ids_above_2_53_stay_exact(engine: Engine, start: Start) -> None:
    assert engine.stop() == 0
    with closing(sqlite3.connect(engine.directory / protocol.DATABASE_FILE)) as file, file:
        for table in ("sessions", "messages"):
            file.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, 2**53))
    engine.start()
    assert start("request", engine.directory, "mine").ended()[:2] == ["appended: 1", "appended: 2"]
    run = start("follower", engine.directory, 2**53 + 1)
    assert start("puller", engine.directory, 1).ended() == [f"1 session_created {2**53 + 1}"]
    run.prints(2)
    with engine.peer() as peer:
        append(peer, 2**53 + 1, "live")
        assert peer.ask("close_session", session_id=2**53 + 1)["ok"]
    assert contents(run.ended()) == ["Grüß dich ☕", "hi!", "live"]


# --- puller ---------------------------------------------------------------------------------------


def test_a_puller_gets_each_fact(engine: Engine, peer: Peer, start: Start) -> None:
    session = session_of(peer, "one")
    run = start("puller", engine.directory, 5)
    run.prints(2)
    append(peer, session, "two")
    append(peer, session, "x" * 100_000)
    peer.ask("close_session", session_id=session)
    assert run.ended() == [
        f"1 session_created {session}",
        f"2 message_appended {session}",
        f"3 message_appended {session}",
        f"4 message_appended {session}",
        f"5 session_closed {session}",
    ]


def test_two_pullers_share_the_facts(engine: Engine, peer: Peer, start: Start) -> None:
    runs = [start("puller", engine.directory) for _ in range(2)]
    session = session_of(peer)

    def both_have_some() -> bool:
        append(peer, session, "again")
        return all(run.lines() for run in runs)

    wait_until(both_have_some)
    position = peer.ask("ping")["position"]
    wait_until(lambda: sum(len(run.lines()) for run in runs) == position)
    seen = [[int(line.split()[0]) for line in run.lines()] for run in runs]
    assert sorted(seen[0] + seen[1]) == list(range(1, position + 1))
    assert all(places == sorted(places) for places in seen)


# --- worker ---------------------------------------------------------------------------------------


def test_a_worker_handles_every_message_and_gets_large_ones_whole(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    texts = ["one", "\ufeffdeux\n", "", "☕" * 40_000]
    session = session_of(peer, *texts)
    run = start("worker", engine.directory, "g", 30_000, "sh", "-c", "cat > handled-$ARMIN_POSITION")
    wait_until(lambda: len(outcomes(run, "ack")) == 4)
    peer.ask("close_session", session_id=session)
    for position, text in enumerate(texts, start=2):
        assert (short_dir / f"handled-{position}").read_text("utf-8") == text
    assert [(position, attempt) for position, attempt, _ in outcomes(run, "ack")] == [
        (n, 1) for n in range(2, 6)
    ]
    wait_until(lambda: all_handled(peer, "g"))
    run.process.terminate()
    run.ended()


def test_an_effect_that_failed_comes_again(engine: Engine, peer: Peer, start: Start) -> None:
    session_of(peer, "one", "two")
    run = start("worker", engine.directory, "g", 30_000, "sh", "-c", "test $ARMIN_ATTEMPT != 1 || exit 3")
    wait_until(lambda: len(outcomes(run, "ack")) == 2)
    assert sorted(outcome[:2] for outcome in outcomes(run, "nack")) == [(2, 1), (3, 1)]
    assert sorted(outcome[:2] for outcome in outcomes(run, "ack")) == [(2, 2), (3, 2)]
    assert all_handled(peer, "g")


def test_a_worker_whose_replies_are_lost_handles_each_effect_once(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    session_of(peer, *map(str, range(6)))
    between = short_dir / "between"
    between.mkdir()
    endpoint = f"ipc://{between}/commands.sock"
    with LossyProxy(endpoint, engine.endpoint("commands"), drop=0.2, cut=0.05, seed=1) as proxy:
        run = start("worker", between, "g", 30_000, "sh", "-c", "cat >> handled; echo >> handled")
        wait_until(lambda: len(outcomes(run, "ack")) == 6, 60)
        assert proxy.dropped + proxy.cuts >= 2
        run.process.terminate()
        run.ended(60)
    assert all(outcome["ok"] for _, _, outcome in outcomes(run, "ack"))
    assert (short_dir / "handled").read_text("ascii").split() == [*map(str, range(6))]
    assert all_handled(peer, "g")


def test_what_a_killed_worker_held_is_handled_by_another(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    session_of(peer, *"abcdefgh")
    runs = [start("worker", engine.directory, "g", LEASE_MS, "sh", "-c", AT_THE_GATE) for _ in range(2)]
    # Each holds one effect for longer than its lease, as it extends it.
    wait_until(lambda: all(len(outcomes(run, "extend")) > 4 for run in runs))
    assert (short_dir / "begun").read_text("ascii").splitlines() in (["2 1", "3 1"], ["3 1", "2 1"])
    killed, other = runs
    [held] = {position for position, _, _ in outcomes(killed, "extend")}
    killed.process.kill()
    (short_dir / "gate").touch()
    wait_until(lambda: len(outcomes(other, "ack")) == 8)
    acked = {position: attempt for position, attempt, _ in outcomes(other, "ack")}
    assert acked == {position: 2 if position == held else 1 for position in range(2, 10)}
    assert all_handled(peer, "g")


def test_a_worker_that_slept_too_long_leaves_the_effect_to_another(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    session_of(peer, "one")
    slow = start("worker", engine.directory, "g", LEASE_MS, "sh", "-c", AT_THE_GATE)
    wait_until((short_dir / "begun").exists)
    slow.process.send_signal(signal.SIGSTOP)
    other = start("worker", engine.directory, "g", LEASE_MS, "sh", "-c", AT_THE_GATE)
    wait_until(lambda: (short_dir / "begun").read_text("ascii") == "2 1\n2 2\n")
    slow.process.send_signal(signal.SIGCONT)
    wait_until(lambda: bool(outcomes(slow, "extend")) and not outcomes(slow, "extend")[-1][2]["ok"])
    assert outcomes(slow, "extend")[-1][2]["error"]["code"] == "lease_lost"
    (short_dir / "gate").touch()
    wait_until(lambda: len(outcomes(other, "ack")) == 1)
    assert outcomes(slow, "ack") == []
    assert all_handled(peer, "g")


def test_a_worker_outlives_its_engine(engine: Engine, short_dir: Path, start: Start) -> None:
    with engine.peer() as peer:
        session_of(peer, "one", "two")
    run = start("worker", engine.directory, "g", 60_000, "sh", "-c", AT_THE_GATE)
    wait_until((short_dir / "begun").exists)
    engine.kill()
    (short_dir / "gate").touch()
    wait_until(lambda: "engine away" in run.said())
    engine.start()
    wait_until(lambda: len(outcomes(run, "ack")) == 2)
    assert [(position, attempt) for position, attempt, _ in outcomes(run, "ack")] == [(2, 1), (3, 1)]
    with engine.peer() as peer:
        wait_until(lambda: all_handled(peer, "g"))


def test_a_worker_that_is_told_to_stop_finishes_what_it_holds(
    engine: Engine, peer: Peer, short_dir: Path, start: Start
) -> None:
    session_of(peer, "one", "two")
    run = start("worker", engine.directory, "g", LEASE_MS, "sh", "-c", AT_THE_GATE)
    wait_until(lambda: bool(outcomes(run, "extend")))
    run.process.terminate()
    wait_until(lambda: len(outcomes(run, "extend")) > 2, what="it goes on")
    (short_dir / "gate").touch()
    run.ended()
    assert [outcome[:2] for outcome in outcomes(run, "ack")] == [(2, 1)]
    stands = group(peer, "g")
    assert (stands["leased"], stands["waiting"], stands["behind"]) == (0, 0, 1)
