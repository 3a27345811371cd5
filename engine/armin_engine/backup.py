"""A copy of a database, taken while an engine writes to it: in one step, verified, all of it or nothing.

SQLite copies page by page from one moment of the file, which a read transaction of the copier's own
connection pins; in several steps it would begin anew at each commit in between. The copy needs no WAL.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from armin_engine import probe
from armin_engine.errors import EngineError
from armin_engine.lock import SUFFIX as LOCK_SUFFIX
from armin_engine.offline import Progress, check_current, undisturbed, verify_file
from armin_engine.standing import inode
from armin_engine.store import NEW_SUFFIX
from armin_engine.upgrade import sync

PARTIAL_SUFFIX: Final = ".armin-partial"  # a copy that is not whole yet, or whose writer was killed
SYNC_PAUSE_S: Final = 0.01  # between two syncs while a copy is written
RESERVE_BYTES: Final = 256 << 20  # a backup leaves at least this free: the engine may write to the same disk
RESERVE_SHARE: Final = 4  # or this part of the copy, if that is more: as the database grows, so does its WAL
NICE: Final = 10  # a copier gives way to the engine
SQLITE_SUFFIXES: Final = ("-wal", "-shm", "-journal")

_ROLLBACK_MODE: Final = b"\x01\x01"  # the header's read and write version; 2 and 2 in a file that uses a WAL
_VERSIONS_AT: Final = 18  # their place in the header, in bytes
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class BackupFailed(EngineError):
    """There is no copy, and nothing was left behind; ``reason`` says why.

    `destination`, `exists`, `full`, `copy` (SQLite failed) or `damaged` (the copy differs from its digests).
    """

    code = "storage_failed"


class Backup(NamedTuple):
    """A whole copy: its file, size, last position and digest there, when it began and how long it took.

    Times in milliseconds, the first since the Unix epoch.
    """

    path: Path
    bytes: int
    position: int
    head: str
    begun_at: int
    duration_ms: int


def give_way() -> None:
    """Let this process have what others leave: a backup may take longer, an append may not."""
    with contextlib.suppress(OSError):
        os.nice(NICE)


def name_of(begun_at: int, position: int) -> str:
    """The name of a backup that was not given one: its time in UTC and its position."""
    seconds, milliseconds = divmod(begun_at, 1000)
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    return f"armin-{moment}.{milliseconds:03}Z-{position}.db"


def back_up(database: Path, destination: Path, progress: Progress | None = None) -> Backup:
    """Copy `database` to the new file `destination`, or into it where it is a directory.

    `progress` gets the facts verified and their total. Raises BackupFailed, FileNotFoundError where there is
    no database, OpenError where it is none of Armin's or cannot be read.
    """
    begun, begun_at = time.monotonic(), time.time_ns() // 1_000_000
    database = Path(os.path.realpath(database))
    directory, name = _place(database, destination)
    with copied(database, directory, progress, reserve=RESERVE_BYTES) as copy:
        place = directory / (name or name_of(begun_at, copy.position))
        _publish(copy.path, place)
        size = place.stat().st_size
    duration_ms = int((time.monotonic() - begun) * 1000)
    return Backup(place, size, copy.position, f"{copy.position}:{copy.digest}", begun_at, duration_ms)


# --- where to ---


def _place(database: Path, destination: Path) -> tuple[Path, str | None]:
    """The real directory, and the name there if one is given."""
    if destination.is_dir():
        return Path(os.path.realpath(destination)), None
    directory = Path(os.path.realpath(destination.parent))
    place = directory / destination.name
    taken = {
        database.with_name(database.name + each) for each in ("", *SQLITE_SUFFIXES, LOCK_SUFFIX, NEW_SUFFIX)
    }
    if place in taken or (os.path.lexists(place) and _is_one_of(place, taken)):
        raise BackupFailed(
            f"{destination} is a file of the live database; a backup needs a place of its own",
            reason="destination",
        )
    if destination.name.endswith(SQLITE_SUFFIXES):
        raise BackupFailed(
            f"{destination} has a name that SQLite gives to files beside a database; choose another",
            reason="destination",
        )
    check_unused(place)
    if not directory.is_dir():
        raise BackupFailed(f"{destination.parent} is no directory; make it first", reason="destination")
    return directory, destination.name


def _is_one_of(place: Path, others: set[Path]) -> bool:
    """Whether it is the same file by another name."""
    for other in others:
        with contextlib.suppress(OSError):
            if os.path.samefile(place, other):
                return True
    return False


def check_unused(place: Path) -> None:
    """Raise BackupFailed where something bears this name, or one that SQLite would take for its WAL."""
    for suffix in ("", *SQLITE_SUFFIXES):
        found = probe.beside(place, suffix)
        if os.path.lexists(found):
            raise BackupFailed(f"{found} exists; a backup replaces nothing", reason="exists")


def _publish(partial: Path, place: Path) -> None:
    """Give the file its name, unless something has it."""
    try:
        check_unused(place)
        try:
            os.link(partial, place)  # which, other than a rename, replaces nothing
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.rename(partial, place)
        else:
            os.unlink(partial)
        sync(place.parent)
    except FileExistsError:
        raise BackupFailed(f"{place} exists; a backup replaces nothing", reason="exists") from None
    except OSError as error:
        raise _refused(place, error) from error


def _refused(place: Path, error: OSError) -> BackupFailed:
    return BackupFailed(f"cannot write {place}: {error.strerror or error}", reason="destination")


# --- the copy ---


class Copy(NamedTuple):
    """A verified copy that has no name yet."""

    path: Path
    descriptor: int
    position: int
    digest: str


@contextlib.contextmanager
def copied(
    database: Path, directory: Path, progress: Progress | None = None, *, reserve: int | None = None
) -> Iterator[Copy]:
    """A synced and verified copy under a passing name in `directory`, gone afterwards if still under it.

    reserve: bytes that must stay free beside it; None lets it take all there are. Raises as `back_up` does.
    """
    check_current(database)
    try:
        partial, descriptor = _begin(directory)
    except OSError as error:
        raise _refused(directory, error) from error
    try:
        with _synced_meanwhile(descriptor):
            undisturbed(
                database, lambda immutable: _copy(database, partial, immutable=immutable, reserve=reserve)
            )
        os.pwrite(descriptor, _ROLLBACK_MODE, _VERSIONS_AT)
        os.fsync(descriptor)
        position, digest = _verified(partial, database, progress)
        yield Copy(partial, descriptor, position, digest)
    except OSError as error:
        raise _refused(directory, error) from error
    finally:
        for suffix in ("", *SQLITE_SUFFIXES):
            with contextlib.suppress(OSError):
                probe.beside(partial, suffix).unlink(missing_ok=True)
        os.close(descriptor)


def _begin(directory: Path) -> tuple[Path, int]:
    """A new file, locked: it has a writer, see remove_leftovers."""
    while True:
        partial = directory / f".{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if inode(partial) == inode(descriptor):
                return partial, descriptor
        except BlockingIOError:
            pass
        except BaseException:
            partial.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(descriptor)  # somebody took it for a leftover between our open and our flock


@contextlib.contextmanager
def _synced_meanwhile(descriptor: int) -> Iterator[None]:
    """Sync what is written little by little: the engine's own syncs would wait for a single large one."""
    over = threading.Event()
    errors: list[OSError] = []

    def run() -> None:
        try:
            while not over.wait(SYNC_PAUSE_S):
                os.fsync(descriptor)
        except OSError as error:  # which the kernel tells only once
            errors.append(error)

    thread = threading.Thread(target=run, name="sync")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def _copy(database: Path, partial: Path, *, immutable: bool, reserve: int | None) -> None:
    try:
        with (
            closing(probe.connect_read_only(database, immutable=immutable)) as reader,
            closing(sqlite3.connect(partial, isolation_level=None)) as copy,
        ):
            _check_room(reader, partial.parent, reserve)
            # Nobody else opens the copy, and one that breaks off is thrown away.
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            reader.backup(copy, pages=-1)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise probe.damaged(database, str(error)) from error
        raise copying_failed(f"cannot copy {database} to {partial.parent}", error) from error


def copying_failed(what: str, error: sqlite3.Error) -> BackupFailed:
    """The error for a copy that SQLite would not write."""
    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return BackupFailed(f"{what}: {error}", reason="full" if full else "copy")


def _check_room(reader: sqlite3.Connection, directory: Path, reserve: int | None) -> None:
    """A copy that fills the disk would leave the engine, too, without room."""
    pages, page_bytes = (
        reader.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    free = shutil.disk_usage(directory).free
    needed = pages * page_bytes
    spare = 0 if reserve is None else max(reserve, needed // RESERVE_SHARE)
    if needed + spare > free:
        beside = f" and is to leave {spare:,} free" if spare else ""
        raise BackupFailed(
            f"the copy takes {needed:,} bytes{beside}, but only {free:,} are free in {directory}",
            reason="full",
        )


def _verified(partial: Path, database: Path, progress: Progress | None) -> tuple[int, str]:
    report, _ = verify_file(partial, progress)
    if not report.equal or report.head is None:
        first = report.differences[0] if report.differences else "it could not be read to its end"
        raise BackupFailed(
            f"the copy of {database} differs from its digests in {report.differences_count} places: {first}",
            reason="damaged",
        )
    return report.position, report.head.hex()


# --- what a killed writer leaves ---


def remove_leftovers(directory: Path, log: Callable[[Path], object] = lambda path: None) -> None:
    """Remove copies that nobody writes any more; `log` is told of each."""
    for leftover in directory.glob(f".*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
                log(leftover)
            finally:
                os.close(descriptor)
