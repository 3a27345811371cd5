"""`verify` in the daemon: the file is read in a thread, memory is compared between turns of the loop."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from typing import Any, Final

from armin_engine.armin import Armin
from armin_engine.errors import BadRequest, StorageFailed
from armin_engine.verify import Finding, Report, Slice

logger = logging.getLogger(__name__)

SLICES_AHEAD_MAX: Final = 2  # read but not yet compared
REPORTS_KEPT: Final = 16  # results of past jobs that can still be asked for

Failure = str  # why the file could not be read; says nothing about what is in it


class Job:
    """One verification under way."""

    def __init__(self, armin: Armin, number: int) -> None:
        self.number = number
        self._reader, self._connection = armin.file_reader()
        self._comparison = armin.comparison()
        self._slices: queue.Queue[Slice | Failure | None] = queue.Queue(SLICES_AHEAD_MAX)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="verify", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        slices = self._reader.slices()
        try:
            for piece in slices:
                self._put(piece)
                if self._stop.is_set():
                    return
        except (sqlite3.Error, OSError, MemoryError) as error:  # no difference: nobody knows
            self._put(str(error) or type(error).__name__)
        except Exception as error:  # must reach whoever polls, not vanish with the thread
            logger.exception("verify failed")
            self._put(Slice(0, findings=[Finding(f"verify failed: {error!r}")]))
        finally:
            slices.close()  # type: ignore[attr-defined]
            if self._connection is not None:
                self._connection.close()
            self._put(None)

    def _put(self, piece: Slice | Failure | None) -> None:
        while not self._stop.is_set():
            try:
                self._slices.put(piece, timeout=0.1)
            except queue.Full:
                continue
            return

    def step(self) -> Report | Failure | None:
        """Compare one slice, if one has been read; the report after the last one, or why there is none."""
        try:
            piece = self._slices.get_nowait()
        except queue.Empty:
            return None
        if piece is None:
            return self._comparison.report(self._reader)
        if isinstance(piece, Failure):
            return piece
        self._comparison.compare(piece)
        return None

    def progress(self) -> dict[str, Any]:
        """How far it is."""
        return {
            "job": self.number,
            "done": False,
            "checked": self._comparison.checked,
            "total": self._reader.total,
        }

    def stop(self) -> None:
        """Give up; the file must not be closed under the thread."""
        self._stop.set()
        self._thread.join()


class Verifier:
    """At most one job at a time; asking again while it runs joins it."""

    def __init__(self, armin: Armin) -> None:
        self._armin = armin
        self._job: Job | None = None
        self._number = 0
        self._reports: dict[int, Report | Failure] = {}

    @property
    def running(self) -> bool:
        """Whether `step` has something to do."""
        return self._job is not None

    def ask(self, number: int | None, at: int | None) -> dict[str, Any]:
        """Start or join a job, or say how job `number` stands; once it is done, with the digest at `at`."""
        if number is None:
            if self._job is None:
                self._number += 1
                try:
                    self._job = Job(self._armin, self._number)
                except (sqlite3.Error, OSError) as error:
                    raise StorageFailed(f"the file cannot be read: {error}", reason="read") from error
            return self._job.progress()
        if self._job is not None and self._job.number == number:
            return self._job.progress()
        report = self._reports.get(number)
        if report is None:
            raise BadRequest(f"there is no verify job {number}", field="job")
        if isinstance(report, Failure):
            raise StorageFailed(f"the file could not be read: {report}; verify anew", reason="read")
        return {
            "job": number,
            "done": True,
            "checked": report.checked,
            "total": report.checked,
            "verified_position": report.position,
            "equal": report.equal,
            "differences": list(report.differences),
            "differences_count": report.differences_count,
            "first_bad": None if report.first_bad is None else report.first_bad._asdict(),
            "head": None if report.head is None else f"{report.position}:{report.head.hex()}",
            **({} if at is None else {"digest": self._digest(at)}),
        }

    def _digest(self, position: int) -> str | None:
        try:
            digest = self._armin.digest_at(position)
        except sqlite3.Error as error:
            raise StorageFailed(f"the file cannot be read: {error}", reason="read") from error
        return None if digest is None else digest.hex()

    def step(self) -> None:
        """Go on with the job, one slice at a time."""
        job = self._job
        if job is None:
            return
        report = job.step()
        if report is not None:
            self._job = None
            self._reports[job.number] = report
            self._reports.pop(job.number - REPORTS_KEPT, None)
            if isinstance(report, Failure):
                logger.error("verify could not read the file: %s", report)
            elif not report.equal:
                logger.error("verify found %d differences: %s", report.differences_count, report.differences)

    def stop(self) -> None:
        """End a job under way."""
        if self._job is not None:
            self._job.stop()
            self._job = None
