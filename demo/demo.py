"""Armin in half a minute: real conversations, live followers, counts that agree, and a crash.

    make demo

Everything runs in a temporary directory, in processes of their own that speak to the engine through
its sockets: the engine, a follower, an effects worker, and the `armin` commands shown.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from processes import ARMIN, DemoFailed, Engine, Watcher, environment, run, wait_until
from stage import Stage

import armin

DATA: Final = Path(__file__).resolve().parent.parent / "data"
MESSAGES_MIN: Final = 5_000  # the bundled file holds at least this many
IMPORT_S: Final = 40.0  # an import that takes longer has failed
CATCH_UP_S: Final = 15.0  # a watcher that takes longer to see what is committed has failed
WRITERS: Final = 2
ACKNOWLEDGED_BEFORE_KILL: Final = 300  # appends of each writer
CRASH_TIMEOUT_S: Final = 30.0  # a writer sends an append again for so long


class Counts(NamedTuple):
    """What one place says there is."""

    sessions: int
    messages: int
    closed: int
    facts: int


class Cast(NamedTuple):
    """Everybody on the stage."""

    directory: Path
    engine: Engine
    follower: Watcher
    worker: Watcher


def main() -> int:
    """Run all scenes; 0 if every promise was kept."""
    signal.signal(signal.SIGTERM, _terminated)
    stage = Stage()
    begun = time.monotonic()
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="armin-demo-")))
            perform(stage, stack, directory / "data")
    except KeyboardInterrupt:
        stage.say("\ninterrupted; everything is cleaned up")
        return 130
    except BrokenPipeError:  # whoever watched has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (DemoFailed, armin.ArminError) as error:
        stage.say(f"\nthe demo failed: {error}", style="bold red")
        return 1
    stage.say(f"\nEverything agreed, in {time.monotonic() - begun:.0f} s.", style="bold green")
    return 0


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def perform(stage: Stage, stack: ExitStack, directory: Path) -> None:
    """The scenes in order."""
    stage.say("Armin commits reality, then announces it.", style="bold")
    cast = begin(stage, stack, directory)
    stage.pause(1.5)
    import_conversations(stage, cast)
    stage.pause(1.5)
    show_history(stage, cast)
    stage.pause(3)
    compare_counts(stage, cast)
    stage.pause(2.5)
    crash(stage, cast)


# --- the scenes -----------------------------------------------------------------------------------


def begin(stage: Stage, stack: ExitStack, directory: Path) -> Cast:
    """Start the engine, and two processes that watch it."""
    stage.scene("An engine, a follower and an effects worker, each a process of its own")
    engine = stack.enter_context(Engine(directory))
    stage.command("serve", "DIR")
    engine.start()
    stage.command("follow", "--from-start", "--json")
    follower = stack.enter_context(Watcher(directory, "follow", "--from-start", "--json"))
    stage.command("effects", "--json")
    worker = stack.enter_context(Watcher(directory, "effects", "--json"))
    stage.say(f"running: engine {engine.pid}, follower {follower.process.pid}, worker {worker.process.pid}")
    return Cast(directory, engine, follower, worker)


def import_conversations(stage: Stage, cast: Cast) -> None:
    """Import the bundled file, with the follower's view of it going by; then one conversation slowly."""
    file = bundled_file()
    stage.scene("Import real conversations; what is committed goes by live")
    stage.command("import", f"data/{file.name}")
    give_up = time.monotonic() + IMPORT_S
    importing = subprocess.Popen(
        [*ARMIN, "import", str(file)],
        env=environment(cast.directory),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with importing, armin.connect(cast.directory) as client:

        def done() -> bool:
            arrived = importing.poll() is not None and caught_up(cast, client.ping())
            return arrived or time.monotonic() > give_up

        try:
            stage.watch(
                done,
                lambda: f"follower {cast.follower.facts:,} facts, worker {cast.worker.facts:,}",
                lambda: list(cast.follower.last),
            )
        finally:
            importing.kill()  # if it is still there
        report = importing.stdout.read().strip() if importing.stdout else ""
    if importing.returncode != 0:
        raise DemoFailed(f"armin import ended with exit code {importing.returncode}")
    stage.say(report)
    talk_slowly(stage, cast)


def talk_slowly(stage: Stage, cast: Cast) -> None:
    """Append one conversation again, message by message, and show each as the follower prints it."""
    stage.pause(1)
    stage.say("\nOne conversation at the pace of people, as the follower prints it:")
    with armin.connect(cast.directory) as client:
        script = client.read(conversation(client).id, limit=10).messages
        session = client.create_session("the demo talks")
        for message in script:
            stage.pause(0.4)
            done = client.append(session.id, message.role, message.content)
            follower_reaches(cast, done.at)
            stage.show(cast.follower.last[-1])
        client.close_session(session.id)


def show_history(stage: Stage, cast: Cast) -> None:
    """Read one session as anybody would."""
    stage.scene("The history of one session")
    with armin.connect(cast.directory) as client:
        session = str(conversation(client).id)
    stage.command("read", session, "--limit", "8")
    run(cast.directory, "read", session, "--limit", "8")


def compare_counts(stage: Stage, cast: Cast) -> None:
    """The same figures from four places that know nothing of each other."""
    stage.scene("Four witnesses that know nothing of each other")
    with armin.connect(cast.directory) as client:
        position = client.ping()
        wait_until(lambda: caught_up(cast, position), CATCH_UP_S, "follower and worker have seen all facts")
        counts = [in_file(cast), in_memory(client), seen_by(cast.follower), seen_by(cast.worker)]
    agree(stage, ("SQLite", "memory", "follower", "worker"), counts)
    if counts[0].messages < MESSAGES_MIN:
        raise DemoFailed(f"only {counts[0].messages} messages were imported")


def crash(stage: Stage, cast: Cast) -> None:
    """SIGKILL in the middle of appends; the writers go on, and every append is there, in order, once."""
    stage.scene("kill -9 in the middle of appends")
    with ExitStack() as stack:
        writers = [Writer(stack, cast.directory, number) for number in range(1, WRITERS + 1)]
        for writer in writers:
            writer.start()
        enough = ACKNOWLEDGED_BEFORE_KILL
        wait_until(lambda: all(len(w.acknowledged) >= enough for w in writers), CATCH_UP_S, "appends")
        killed = cast.engine.pid
        cast.engine.kill()
        stage.say(f"killed engine {killed} while {WRITERS} writers were appending")
        stage.command("serve", "DIR")
        seconds = cast.engine.start()
        before = [len(writer.acknowledged) for writer in writers]
        wait_until(
            lambda: all(len(w.acknowledged) > n for w, n in zip(writers, before, strict=True)),
            CATCH_UP_S,
            "the writers go on",
        )
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join()
    stage.say(f"engine {cast.engine.pid} recovered everything and serves again after {seconds:.1f} s")
    with armin.connect(cast.directory) as client:
        check_writers(stage, client, writers)
        position = client.ping()
        follower_reaches(cast, position)
        if cast.follower.repeats_or_gaps:
            raise DemoFailed("the follower saw a fact twice, or missed one")
        agree(
            stage,
            ("SQLite", "memory", "follower"),
            [in_file(cast), in_memory(client), seen_by(cast.follower)],
        )
    stage.say("What was not answered was sent again; its key kept it from being doubled.")
    stage.say("The follower lived through it: no gap, no repeat. Pushed effects are at most")
    stage.say(f"once, by design: the worker saw {cast.worker.facts:,} of {position:,}.")
    stage.pause(2)
    stage.say("")
    stage.command("verify")
    run(cast.directory, "verify")


def check_writers(stage: Stage, client: armin.Client, writers: Sequence[Writer]) -> None:
    """Compare what each writer was promised with what is there."""
    for writer in writers:
        found = [message.content for message in client.messages(writer.session_id)]
        if writer.failure is not None:
            raise DemoFailed(f"writer {writer.number} gave up: {writer.failure}")
        acknowledged = len(writer.acknowledged)
        if writer.acknowledged != list(range(1, acknowledged + 1)):
            raise DemoFailed(f"writer {writer.number}: the acknowledged seqs are not in order")
        if found != writer.sent or len(found) != acknowledged:
            raise DemoFailed(
                f"writer {writer.number}: {acknowledged} acknowledged, {len(found)} found, or mixed up"
            )
        stage.say(f"writer {writer.number}: {acknowledged} acknowledged, all there, in order, once")


class Writer(threading.Thread):
    """Appends until it is enough, as if nothing could happen, and remembers what was acknowledged."""

    def __init__(self, stack: ExitStack, directory: Path, number: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.sent: list[str] = []
        self.acknowledged: list[int] = []  # seqs
        self.enough = threading.Event()
        self.failure: armin.ArminError | None = None
        self._client = stack.enter_context(armin.connect(directory, timeout=CRASH_TIMEOUT_S))
        self.session_id = self._client.create_session(f"writer {number} of the crash").id

    def run(self) -> None:
        """Append, one after the other."""
        try:
            while not self.enough.is_set():
                self.sent.append(f"message {len(self.sent) + 1} of writer {self.number}")
                self.acknowledged.append(self._client.append(self.session_id, "user", self.sent[-1]).seq)
        except armin.ArminError as error:
            self.failure = error


# --- figures --------------------------------------------------------------------------------------


def bundled_file() -> Path:
    """The conversations that come with Armin."""
    files = sorted(DATA.glob("*.jsonl"))
    if not files:
        raise DemoFailed(f"there are no conversations in {DATA}")
    return files[0]


def conversation(client: armin.Client) -> armin.Session:
    """An imported session of a readable size."""
    found = client.sessions(limit=200).sessions
    return next((session for session in found if 8 <= session.seq <= 30), found[0])


def caught_up(cast: Cast, position: int) -> bool:
    """Whether both watchers have seen everything up to a position."""
    return cast.follower.position >= position and cast.worker.facts >= position


def follower_reaches(cast: Cast, position: int) -> None:
    """Wait until the follower has printed everything up to a position."""
    wait_until(lambda: cast.follower.position >= position, CATCH_UP_S, f"the follower is at {position}")


def in_file(cast: Cast) -> Counts:
    """Counted by SQLite itself, in this process, past the engine."""
    uri = f"{(cast.directory / 'armin.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM messages),"
            " (SELECT count(*) FROM sessions WHERE closed = 1), (SELECT max(position) FROM log)"
        ).fetchone()
    return Counts(*row)


def in_memory(client: armin.Client) -> Counts:
    """What the engine holds in memory, as it says."""
    stats = client.stats()
    return Counts(stats["sessions"], stats["messages"], stats["sessions_closed"], stats["position"])


def seen_by(watcher: Watcher) -> Counts:
    """What a process has printed."""
    kinds = watcher.kinds
    return Counts(kinds["session_created"], kinds["message_appended"], kinds["session_closed"], watcher.facts)


def agree(stage: Stage, places: Sequence[str], counts: Sequence[Counts]) -> None:
    """Show the figures side by side; all must be equal."""
    verdicts = [len({getattr(count, name) for count in counts}) == 1 for name in Counts._fields]
    rows = [[name, *(f"{getattr(count, name):,}" for count in counts)] for name in Counts._fields]
    stage.table(("", *places), rows, verdicts)
    if not all(verdicts):
        raise DemoFailed("the counts differ")


if __name__ == "__main__":
    sys.exit(main())
