"""Torn and corrupt files: refused, or recovered by SQLite to what was whole; never cleaned in silence."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from armin_engine import Armin, CorruptDatabase, OpenError
from armin_engine.offline import verify_file
from engine.observe import append, create, file_bytes, log

PAGE: int = 4096
WAL_HEADER = 32
FRAME = 24 + PAGE


class Killed(NamedTuple):
    """A file and its WAL as a killed engine leaves them; `checkpointed` facts stand in the file itself."""

    data: bytes
    wal: bytes
    facts: list[bytes]
    checkpointed: int

    def put(self, path: Path, data: bytes | None = None, wal: bytes | None = None) -> None:
        """Lay them out, or what became of them."""
        path.write_bytes(self.data if data is None else data)
        path.with_name(path.name + "-wal").write_bytes(self.wal if wal is None else wal)


def killed(path: Path, name: str, commits: int = 30) -> Killed:
    """A small life, half of it checkpointed, the rest in the WAL; then SIGKILL, as far as files can tell."""
    with Armin(path) as armin:
        armin.apply([create(name), append(1, *[f"{name} {number}" for number in range(50)])])
        before = armin.position
    armin = Armin(path)
    try:
        for number in range(commits):
            armin.apply([append(1, f"{name} later {number}", "x" * 900)])
        facts = [event.packed for event in log(armin)]
        copies = [path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()]
    finally:
        armin.close()
    return Killed(copies[0], copies[1], facts, before)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return killed(tmp_path_factory.mktemp("killed") / "armin.db", "this")


def prefix(path: Path, left: Killed) -> int:
    """Open what is there: it must agree with itself, be the beginning of what was, and take writes."""
    assert verify_file(path).report.equal
    with Armin(path) as armin:
        facts = [event.packed for event in log(armin)]
        assert facts == left.facts[: len(facts)]
        assert armin.verify().equal
        armin.append(1, "user", "and on")
    with Armin(path) as armin:
        assert armin.position == len(facts) + 1
        assert armin.verify().equal
    return len(facts)


def test_a_whole_wal_is_recovered_whole(path: Path, left: Killed) -> None:
    left.put(path)
    assert len(left.wal) > WAL_HEADER + 30 * FRAME
    assert prefix(path, left) == len(left.facts)


def test_a_wal_torn_within_its_last_commit_loses_that_commit_alone(path: Path, left: Killed) -> None:
    for cut in (1, 100, FRAME - 1, FRAME):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        left.put(path, wal=left.wal[:-cut])
        assert prefix(path, left) == len(left.facts) - 2  # of its two messages, neither


def test_a_wal_torn_anywhere_is_recovered_to_a_commit(path: Path, left: Killed) -> None:
    chance = random.Random(3)
    for _ in range(12):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        left.put(path, wal=left.wal[: chance.randrange(1, len(left.wal))])
        count = prefix(path, left)
        assert left.checkpointed <= count < len(left.facts)
        assert (count - left.checkpointed) % 2 == 0


def test_a_flipped_bit_in_the_wal_ends_it_there(path: Path, left: Killed) -> None:
    chance = random.Random(4)
    for _ in range(12):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        wal = bytearray(left.wal)
        wal[chance.randrange(WAL_HEADER, len(wal))] ^= 1 << chance.randrange(8)
        left.put(path, wal=bytes(wal))
        assert left.checkpointed <= prefix(path, left) < len(left.facts)


@pytest.mark.parametrize("bytes_left", [1, 16, 31, WAL_HEADER, WAL_HEADER + 23])
def test_a_wal_cut_within_its_header_is_none_and_only_a_kept_head_shows_it(
    path: Path, left: Killed, bytes_left: int
) -> None:
    left.put(path)
    head = verify_file(path).report.head
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    left.put(path, wal=left.wal[:bytes_left])
    checked = verify_file(path, at=len(left.facts))
    assert checked.report.equal
    assert (checked.report.position, checked.digest) == (left.checkpointed, None)
    assert checked.report.head != head
    assert prefix(path, left) == left.checkpointed


def test_the_wal_of_another_database_is_refused_and_both_are_kept(
    path: Path, left: Killed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = killed(tmp_path_factory.mktemp("other") / "armin.db", "other")
    left.put(path, wal=other.wal)
    before = file_bytes(path)
    for attempt in (Armin, verify_file):
        with pytest.raises(OpenError, match="belongs to another database"):
            attempt(path)
        assert file_bytes(path) == before
    left.put(path)
    assert prefix(path, left) == len(left.facts)


def test_a_new_database_s_whole_wal_beside_another_one_is_refused(
    path: Path, left: Killed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It holds every page of its own file: without a look at the ids, that file would replace this one."""
    elsewhere = tmp_path_factory.mktemp("whole") / "armin.db"
    armin = Armin(elsewhere)
    armin.create_session("intruder")
    armin._store._writer.execute("VACUUM")
    armin.append(1, "user", "x")
    wal = elsewhere.with_name("armin.db-wal").read_bytes()
    armin.close()
    left.put(path, wal=wal)
    before = file_bytes(path)
    with pytest.raises(CorruptDatabase, match="belongs to another database"):
        Armin(path)
    assert file_bytes(path) == before


def test_a_zeroed_page_is_refused_or_found_or_held_nothing(path: Path, left: Killed) -> None:
    """An index page holds nothing that is read: then all is there, and a write says what is wrong."""
    left.put(path)
    with Armin(path):
        pass
    whole = path.read_bytes()
    refused = found = 0
    for number in range(len(whole) // PAGE):
        begin = number * PAGE
        damaged = whole[:begin] + bytes(PAGE) + whole[begin + PAGE :]
        path.write_bytes(damaged)
        try:
            report = verify_file(path).report
        except OpenError:
            refused += 1
            continue
        finally:
            assert path.read_bytes() == damaged
        if not report.equal:
            found += 1
            continue
        with Armin(path) as armin:
            assert [event.packed for event in log(armin)] == left.facts
    assert refused > 0
    assert found > len(whole) // PAGE // 2


@pytest.mark.parametrize("pages", [1, 2, 5, 12])
def test_a_truncated_file_with_a_hot_wal_is_refused_or_found(path: Path, left: Killed, pages: int) -> None:
    left.put(path, data=left.data[: pages * PAGE])
    before = file_bytes(path)
    try:
        report = verify_file(path).report
    except OpenError:
        assert file_bytes(path) == before
        with pytest.raises(OpenError):
            Armin(path)
        return
    assert not report.equal or report.position == len(left.facts)
