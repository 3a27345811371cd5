"""`backup` in the daemon: one at a time into its own directory, by a process that gives way to the loop."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from armin_broker.config import Config
from armin_engine.backup import SQLITE_SUFFIXES, remove_leftovers
from armin_engine.errors import BadRequest, Conflict, EngineError, StorageFailed

logger = logging.getLogger(__name__)

OUTCOMES_KEPT: Final = 16  # results of past jobs that can still be asked for
_PROCESS: Final = (sys.executable, "-P", "-m", "armin_broker.backup_process")

Outcome = dict[str, Any]


class Job:
    """One backup under way: a thread that waits for a process."""

    def __init__(self, number: int, name: str | None, database: Path, directory: Path) -> None:
        self.number = number
        self.name = name
        self.outcome: Outcome | None = None  # set by the thread, once
        self._command = [*_PROCESS, str(database), str(directory if name is None else directory / name)]
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="backup", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._lock:
                if self._stopped:
                    return
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
            with self._process as process:
                assert process.stdin is not None
                assert process.stdout is not None
                line = process.stdout.readline()
            self.outcome = json.loads(line) if line else _broken(f"it ended with {process.returncode}")
        except (OSError, ValueError) as error:
            self.outcome = _broken(str(error))

    def stop(self) -> None:
        """Give up."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
        self._thread.join()


def _broken(why: str) -> Outcome:
    return {"reason": "process", "message": f"the backup's process failed: {why}"}


class Backups:
    """At most one job at a time. Asking for its name while it runs joins it; any other is a conflict."""

    def __init__(self, config: Config) -> None:
        self._database = config.database.absolute()
        self._directory = config.backups.absolute()
        self._job: Job | None = None
        self._number = 0
        self._outcomes: dict[int, Outcome] = {}
        self._last_good: Outcome | None = None
        self._last_ok: bool | None = None
        self._failed = 0
        self._remove_leftovers()
        with contextlib.suppress(OSError):
            remove_leftovers(self._database.parent)  # what a killed armin restore left

    def ask(self, name: str | None, number: int | None) -> dict[str, Any]:
        """Start or join a job, or say how job `number` stands.

        Raises Conflict, BadRequest for an unknown job, StorageFailed for one that failed.
        """
        self.step()
        if number is None:
            return self._begun(name)
        if self._job is not None and self._job.number == number:
            return {"job": number, "done": False}
        outcome = self._outcomes.get(number)
        if outcome is None:
            raise BadRequest(f"there is no backup job {number}", field="job")
        if "message" in outcome:
            raise _failure(outcome)
        return {
            "job": number,
            "done": True,
            "name": outcome["name"],
            "bytes": outcome["bytes"],
            "backup_position": outcome["position"],
            "head": outcome["head"],
            "duration_ms": outcome["duration_ms"],
        }

    def _begun(self, name: str | None) -> dict[str, Any]:
        job = self._job
        if job is not None and (name is None or job.name != name):
            raise Conflict(
                f"backup job {job.number} is under way; ask again when it is done",
                field="name",
                reason="backup_running",
                retry=True,
            )
        if job is None:
            self._job = job = self._start(name)
        return {"job": job.number, "done": False}

    def _start(self, name: str | None) -> Job:
        if name is not None and name.endswith(SQLITE_SUFFIXES):
            raise BadRequest(
                f"name must not end in one of {', '.join(SQLITE_SUFFIXES)}, as SQLite names files of its own",
                field="name",
            )
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if name is not None and (self._directory / name).exists():
                raise _exists(name)
        except OSError as error:
            why = f"cannot use {self._directory}: {error.strerror or error}"
            self._count_failure(why)
            raise StorageFailed(why, reason="backup") from error
        self._remove_leftovers()
        self._number += 1
        return Job(self._number, name, self._database, self._directory)

    def step(self) -> None:
        """Take in what came of a job that has ended."""
        job = self._job
        if job is None or job.outcome is None:
            return
        self._job = None
        outcome = self._outcomes[job.number] = job.outcome
        self._outcomes.pop(job.number - OUTCOMES_KEPT, None)
        self._last_ok = "message" not in outcome
        if self._last_ok:
            self._last_good = outcome
            logger.info(
                "backup %s: %d bytes up to position %d, verified, in %d ms",
                *(outcome[name] for name in ("name", "bytes", "position", "duration_ms")),
            )
        else:
            self._count_failure(outcome["message"])

    def _count_failure(self, why: str) -> None:
        self._last_ok = False
        self._failed += 1
        logger.error("backup failed: %s", why)

    def gauges(self) -> dict[str, Any]:
        """How the last one went, and of the last good one what it came to; nil where there was none.

        Times in milliseconds, the first since the Unix epoch.
        """
        self.step()
        good = self._last_good
        if good is None:
            good = dict.fromkeys(("finished_at", "position", "bytes", "duration_ms"))
        return {
            "backup_ok": self._last_ok,
            "backup_finished_at": good["finished_at"],
            "backup_position": good["position"],
            "backup_bytes": good["bytes"],
            "backup_duration_ms": good["duration_ms"],
            "backups_failed": self._failed,
        }

    def stop(self) -> None:
        """End a job under way, and leave nothing of it."""
        if self._job is not None:
            self._job.stop()
            self._job = None
            self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        with contextlib.suppress(OSError):
            remove_leftovers(self._directory)


def _failure(outcome: Outcome) -> EngineError:
    if outcome["reason"] == "exists":
        return Conflict(outcome["message"], field="name", reason="backup_exists")
    return StorageFailed(outcome["message"], reason="backup")


def _exists(name: str) -> Conflict:
    return Conflict(f"there is a backup {name}; it is not replaced", field="name", reason="backup_exists")
