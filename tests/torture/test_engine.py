"""The engine under torture: what the shim sees, what a cut leaves, where it dies, its failing disk."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq

from armin.torture import vfs
from armin.torture.engine import Fault, KillPoint, Sabotage, TorturedEngine
from armin.torture.trace import Kind, Which, read
from armin_broker import protocol
from armin_engine.probe import connect_read_only
from harness import Peer, wait_until

pytestmark = pytest.mark.skipif(vfs.why_not() is not None, reason=f"no shim here: {vfs.why_not()}")

FULL_SEEDS = 5
NORMAL_SEEDS = 5  # within so many, NORMAL must have lost something
LOOK_MS = 100  # without a reply for so long, the engine is looked at
LOOKS = 600
DEAD_S = 60.0  # to die in


@pytest.fixture
def tortured(short_dir: Path) -> Iterator[TorturedEngine]:
    engine = TorturedEngine(short_dir / "e", short_dir / "v", keep_traces=True)
    yield engine
    engine.kill()


@pytest.fixture
def asking(tortured: TorturedEngine) -> Iterator[Peer]:
    with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
        yield peer


def append(peer: Peer, number: int, **fields: Any) -> dict[str, Any]:
    return peer.ask("append", session_id=1, role="user", content=f"message {number} " * 50, **fields)


def stored(engine: TorturedEngine) -> int:
    """How many messages the file holds, as SQLite recovers it from a copy; it must be whole."""
    copy = engine.evidence / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in ("armin.db", "armin.db-wal"):
        if (engine.directory / name).exists():
            shutil.copy(engine.directory / name, copy / name)
    connection = sqlite3.connect(copy / "armin.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
    finally:
        connection.close()


# --- what the shim sees -------------------------------------------------------------------------------


def test_a_commit_is_written_then_synced_before_its_reply(tortured: TorturedEngine, asking: Peer) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    seen = len(list(read(tortured.trace)))
    for number in range(3):
        assert append(asking, number)["ok"]
        records = list(read(tortured.trace))
        kinds = [record.kind for record in records[seen:] if record.which is Which.WAL]
        assert kinds[0] is Kind.WRITE
        assert kinds[-1] is Kind.SYNC, "a reply came before the sync of what it acknowledges"
        seen = len(records)


def test_the_trace_holds_what_the_files_hold(tortured: TorturedEngine, asking: Peer) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    for number in range(300):  # enough for checkpoints
        append(asking, number)
    assert any(record.which is Which.DATABASE for record in read(tortured.trace))
    tortured.kill()
    before = files(tortured)
    report = tortured.power_cut(random.Random(1))
    assert (report.unsynced, report.kept, report.torn) == (0, 0, 0)
    assert report.writes > 300
    assert files(tortured) == before, "with nothing unsynced, a power cut changes nothing"


def files(engine: TorturedEngine) -> dict[str, bytes]:
    return {name: (engine.directory / name).read_bytes() for name in ("armin.db", "armin.db-wal")}


def test_a_clean_stop_leaves_one_file_which_a_power_cut_keeps(tortured: TorturedEngine, asking: Peer) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    assert append(asking, 1)["ok"]
    assert tortured.stop() == 0
    before = (tortured.directory / "armin.db").read_bytes()
    tortured.power_cut(random.Random(1))
    assert (tortured.directory / "armin.db").read_bytes() == before
    assert not (tortured.directory / "armin.db-wal").exists()


# --- power cuts -----------------------------------------------------------------------------------------


def comes(peer: Peer, engine: TorturedEngine) -> bool:
    """Whether another reply comes before the engine is dead, or has come by then."""
    for _ in range(LOOKS):
        dead = engine.wait_dead(0)
        if peer.socket.poll(LOOK_MS):
            return True
        if dead:
            return False
    raise AssertionError("it answers no more, and lives")


def cut_while_writing(engine: TorturedEngine, seed: int) -> tuple[int, int]:
    """Appends, some in flight, a power cut in their midst; the last acknowledged seq, and the last there."""
    chance = random.Random(seed)
    engine.start(
        die_at=chance.choice((KillPoint.UNSYNCED, KillPoint.WRITING)), passing=chance.randrange(6, 40)
    )
    acknowledged = stored(engine)
    with Peer(f"ipc://{engine.directory}/commands.sock") as peer:
        peer.send("create_session", name="s")
        for number in itertools.count():
            peer.send("append", session_id=1, role="user", content=f"{seed} {number} " * 40)
            if not comes(peer, engine):
                break
            acknowledged = peer.receive()[1].get("seq", acknowledged)
    engine.power_cut(chance)
    return acknowledged, stored(engine)


def test_full_never_loses_what_was_acknowledged(tortured: TorturedEngine) -> None:
    for seed in range(FULL_SEEDS):
        acknowledged, kept = cut_while_writing(tortured, seed)
        assert kept >= acknowledged, f"seed {seed} lost acknowledged messages"


def test_normal_loses_what_was_acknowledged_and_that_is_seen(tortured: TorturedEngine) -> None:
    tortured.sabotage = frozenset({Sabotage.SYNCHRONOUS_NORMAL})
    lost = (
        acknowledged - kept for acknowledged, kept in map(cut_with_sabotage(tortured), range(NORMAL_SEEDS))
    )
    assert any(messages > 0 for messages in lost)


def cut_with_sabotage(engine: TorturedEngine) -> Callable[[int], tuple[int, int]]:
    """As `cut_while_writing`, the engine killed from outside: without syncs there is no point of theirs."""

    def cut(seed: int) -> tuple[int, int]:
        engine.start()
        with Peer(f"ipc://{engine.directory}/commands.sock") as peer:
            peer.ask("create_session", name="s")
            for number in range(20):
                acknowledged = append(peer, number)["seq"]
        engine.power_cut(random.Random(seed))
        return acknowledged, stored(engine)

    return cut


def test_what_a_failed_sync_left_is_durable_before_the_next_engine_serves(
    tortured: TorturedEngine, asking: Peer
) -> None:
    """A later sync does not help: after a failed one the kernel believes those pages clean."""
    tortured.start()
    assert asking.ask("create_session")["ok"]
    for seed in range(2):
        tortured.fail(Fault.SYNC_WAL)
        with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
            assert append(peer, seed, key=f"key {seed}")["error"]["code"] == "storage_failed"
        tortured.kill()
        tortured.fail(None)
        tortured.start()
        with Peer(f"ipc://{tortured.directory}/commands.sock") as again:
            assert append(again, seed, key=f"key {seed}")["duplicate"] is True, "the page cache kept it"
            assert append(again, seed, key=f"another key {seed}")["ok"]
        tortured.power_cut(random.Random(seed))
        assert stored(tortured) == 2 * (seed + 1), "acknowledged, and lost"
        tortured.start()


# --- kill points ----------------------------------------------------------------------------------------

NOT_YET_IN_THE_FILE = (KillPoint.RECOVERING, KillPoint.BEFORE_COMMIT, KillPoint.WRITING)


def test_it_dies_at_each_kill_point_and_comes_back_whole(tortured: TorturedEngine, asking: Peer) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    assert asking.ask("create_group", group="g", start="begin")["ok"]
    tortured.kill()
    messages = 0
    for point in tortured.points:
        died_starting = tortured.start(die_at=point)
        assert (died_starting is point) == (point is KillPoint.RECOVERING)
        if not died_starting:
            with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
                die(peer, point)
                assert tortured.wait_dead(DEAD_S), f"it passed {point} and lives"
        assert tortured.died_at is point
        messages += point not in (*NOT_YET_IN_THE_FILE, KillPoint.LEASED)
        assert stored(tortured) == messages, point
    tortured.start()
    with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
        assert append(peer, 0)["seq"] == messages + 1
    assert tortured.stop() == 0


def die(peer: Peer, point: KillPoint) -> None:
    """Ask for what leads to the point."""
    if point is KillPoint.LEASED:
        peer.send("lease", group="g")
    elif point is KillPoint.MID_CHECKPOINT:  # so large a commit that a checkpoint comes with it
        peer.send("append", session_id=1, role="user", content="x" * (5 << 20))
    else:
        peer.send("append", session_id=1, role="user", content=point)


def test_it_dies_at_the_passing_that_was_named(tortured: TorturedEngine) -> None:
    tortured.start(die_at=KillPoint.REPLYING, passing=3)
    with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
        peer.send("create_session")
        for number in range(10):
            peer.send("append", session_id=1, role="user", content=str(number))
            peer.send("ping")  # its reply is no passing
        assert tortured.wait_dead(DEAD_S)
    assert tortured.died_at is KillPoint.REPLYING


def test_a_kill_from_outside_is_no_kill_point(tortured: TorturedEngine) -> None:
    tortured.start(die_at=KillPoint.COMMITTED)
    tortured.kill()
    assert tortured.died_at is None
    assert not tortured.alive


# --- a failing disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.FULL_WAL, Fault.SYNC_WAL])
def test_a_wal_that_fails_fails_the_commit_until_it_is_well_again(
    tortured: TorturedEngine, asking: Peer, fault: Fault
) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    assert append(asking, 1)["ok"]
    tortured.fail(fault)
    for number in range(2, 5):
        assert append(asking, number)["error"]["code"] == "storage_failed"
        assert len(asking.ask("read", session_id=1)["messages"]) == 1, "not visible now"
    tortured.fail(None)
    assert append(asking, 5)["seq"] == 2
    assert append(asking, 6)["seq"] == 3
    report = tortured.power_cut(random.Random(1))
    assert report.torn + report.kept <= report.unsynced
    assert stored(tortured) == 3, "the next commit wrote over what had failed: it does not come back"
    tortured.start()
    with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
        contents = [message["content"] for message in peer.ask("read", session_id=1)["messages"]]
        assert [content.split()[1] for content in contents] == ["1", "5", "6"]


@pytest.mark.parametrize("fault", [Fault.FULL_DB, Fault.SYNC_DB])
def test_a_checkpoint_that_fails_fails_no_commit_and_is_made_up_for(
    tortured: TorturedEngine, asking: Peer, fault: Fault
) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    tortured.fail(fault)
    for _ in range(2):
        assert asking.ask("append", session_id=1, role="user", content="x" * (5 << 20))["ok"]
    wait_until(lambda: b"a checkpoint failed" in tortured.log.read_bytes())
    assert tortured.power_cut(random.Random(2)).unsynced, "and what it wrote is not synced"
    assert stored(tortured) == 2
    tortured.fail(None)
    tortured.start()
    with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
        assert append(peer, 3)["seq"] == 3
    assert tortured.stop() == 0
    assert not (tortured.directory / "armin.db-wal").exists()
    tortured.power_cut(random.Random(3))
    assert stored(tortured) == 3


class NothingSurvives(random.Random):
    """Chance, as far as a power cut asks it: all that is not synced is lost."""

    def choice(self, shares: Any) -> Any:
        return min(shares)

    def random(self) -> float:
        return 0.999


def test_what_a_failed_sync_of_a_checkpoint_left_is_not_taken_for_durable(
    tortured: TorturedEngine, asking: Peer
) -> None:
    """Part of a WAL is brought home without a sync, which comes with the whole of it, and fails."""
    tortured.start()
    assert asking.ask("create_session")["ok"]

    def fill(count: int) -> None:
        for number in range(count):
            asking.send("append", session_id=1, role="user", content=f"{number} {'x' * 4096}")
        for _ in range(count):
            assert asking.receive()[1]["ok"]

    fill(1500)
    fill(100)  # too little for a checkpoint, so the reader reads in the WAL
    with closing(connect_read_only(tortured.directory / "armin.db")) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1600,)
        fill(1500)  # what is behind the reader comes home
        tortured.fail(Fault.SYNC_DB)
        reader.execute("COMMIT")
        fill(1500)
        tortured.fail(None)
        fill(1500)
    tortured.power_cut(NothingSurvives())
    assert stored(tortured) == 1600 + 3 * 1500
    tortured.start()
    assert tortured.stop() == 0


def test_an_engine_that_cannot_make_durable_what_it_found_does_not_start(
    tortured: TorturedEngine, asking: Peer
) -> None:
    tortured.start()
    assert asking.ask("create_session")["ok"]
    tortured.kill()
    tortured.fail(Fault.SYNC_WAL)
    with pytest.raises(RuntimeError, match=r"cannot open .* for writing"):
        tortured.start()
    tortured.fail(None)
    tortured.start()


# --- sabotage -------------------------------------------------------------------------------------------


def test_with_emit_before_commit_what_failed_was_announced(tortured: TorturedEngine, asking: Peer) -> None:
    tortured.sabotage = frozenset({Sabotage.EMIT_BEFORE_COMMIT})
    tortured.start()
    live = asking.open(zmq.SUB, f"ipc://{tortured.directory}/live.sock", *protocol.FACT_TOPICS)
    wait_until(lambda: bool(asking.ask("create_session")["ok"] and live.poll(20)))
    tortured.fail(Fault.FULL_WAL)
    assert append(asking, 1)["error"]["code"] == "storage_failed"
    topics = [live.recv_multipart()[0]]
    while topics[-1] != b"message/1/":
        topics.append(live.recv_multipart()[0])
