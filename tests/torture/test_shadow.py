"""What survives a power cut, case by case, on a file of known bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from armin.torture.shadow import PAGE, SECTOR, Shadow
from armin.torture.trace import Kind, TraceWriter, Which, read


class Disk:
    """A database file of four pages of dots, its trace and its shadow."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "armin.db"
        self.file.write_bytes(b"." * 4 * PAGE)
        self.shadow = Shadow(directory / "disk", self.file)
        self._trace = directory / "trace"

    def do(self, *operations: tuple[Kind, int, bytes]) -> None:
        self._trace.unlink(missing_ok=True)
        trace = TraceWriter(self._trace)
        for kind, offset, data in operations:
            trace.add(kind, Which.DATABASE, offset, data)
        self.shadow.absorb(self._trace)

    def after_cut(self, seed: int) -> bytes:
        self.shadow.cut(random.Random(seed))
        return self.file.read_bytes()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def write(page: int, letter: bytes, pages: int = 1) -> tuple[Kind, int, bytes]:
    return Kind.WRITE, page * PAGE, letter * (PAGE * pages)


SYNC = (Kind.SYNC, 0, b"")
SYNC_FAILED = (Kind.SYNC_FAILED, 0, b"")


def test_what_was_synced_is_there(disk: Disk) -> None:
    for seed in range(20):
        disk.do(write(1, b"a"), (Kind.TRUNCATE, 3 * PAGE, b""), SYNC)
        assert disk.after_cut(seed) == b"." * PAGE + b"a" * PAGE + b"." * PAGE


def test_what_was_not_synced_survives_in_whole_sectors_or_not(tmp_path: Path) -> None:
    outcomes = set()
    for seed in range(60):
        (directory := tmp_path / str(seed)).mkdir()
        disk = Disk(directory)
        disk.do(write(1, b"a", pages=2))
        found = disk.after_cut(seed)
        assert found[:PAGE] == b"." * PAGE
        assert found[3 * PAGE :] == b"." * PAGE
        for sector in range(0, 4 * PAGE, SECTOR):
            assert found[sector : sector + SECTOR] in (b"." * SECTOR, b"a" * SECTOR)
        outcomes.add(found)
    assert len(outcomes) > 4, "all, nothing, either page, and torn ones"


def test_after_a_failed_sync_a_later_one_saves_only_pages_written_again(tmp_path: Path) -> None:
    lost = 0
    for seed in range(20):
        (directory := tmp_path / str(seed)).mkdir()
        disk = Disk(directory)
        disk.do(write(0, b"a"), write(1, b"b"), SYNC_FAILED, (Kind.WRITE, 10, b"c"), SYNC)
        found = disk.after_cut(seed)
        assert found[:PAGE] == b"a" * 10 + b"c" + b"a" * (PAGE - 11), "its page was written again"
        lost += found[PAGE : 2 * PAGE] == b"." * PAGE
    assert lost > 0


def test_a_rewritten_file_is_durable_whatever_failed_before(disk: Disk) -> None:
    disk.do(write(0, b"a"), SYNC_FAILED, write(1, b"b"), (Kind.REWRITTEN, 0, b""))
    assert disk.after_cut(0) == b"a" * PAGE + b"b" * PAGE + b"." * 2 * PAGE


def test_a_write_that_failed_did_nothing(disk: Disk) -> None:
    disk.do(write(0, b"a"), write(0, b"b"), (Kind.UNDONE, 0, b""), SYNC)
    assert disk.after_cut(0)[:PAGE] == b"a" * PAGE


def test_what_was_pending_when_one_process_died_is_so_in_the_next(disk: Disk) -> None:
    disk.do(write(0, b"a"))
    disk.do(SYNC)
    assert disk.after_cut(0)[:PAGE] == b"a" * PAGE


def test_a_deleted_file_stays_away(disk: Disk) -> None:
    disk.do(write(0, b"a"), (Kind.DELETE, 0, b""))
    disk.shadow.cut(random.Random(0))
    assert not disk.file.exists()


def test_a_record_cut_off_by_a_kill_ends_the_trace(tmp_path: Path) -> None:
    trace = TraceWriter(tmp_path / "trace")
    trace.add(Kind.WRITE, Which.WAL, 7, b"whole")
    trace.add(Kind.WRITE, Which.WAL, 12, b"cut off")
    with (tmp_path / "trace").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 3)
    assert [(record.offset, record.data) for record in read(tmp_path / "trace")] == [(7, b"whole")]
