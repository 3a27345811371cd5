"""What a tortured engine is told: where to die, how its disk fails, what is broken in it on purpose."""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self


class KillPoint(StrEnum):
    """Where the engine kills itself, with SIGKILL. `in_files`: seen by the VFS shim, so only with it."""

    RECOVERING = "recovering"  # before, and behind each slice of, what recovery reads
    BEFORE_COMMIT = "before_commit"  # rows inserted, COMMIT not yet run
    WRITING = "writing"  # half of a write to the WAL is done
    UNSYNCED = "unsynced"  # the WAL is written, not synced
    COMMITTED = "committed"  # facts are committed, nothing is derived
    LEASED = "leased"  # rows of worker groups are committed (leases, acks), nothing is answered
    DERIVED = "derived"  # derived, not published
    PUBLISHED = "published"  # published, not emitted
    EMITTED = "emitted"  # emitted, nothing is answered
    REPLYING = "replying"  # the reply to a write has been handed to its socket; each one is a passing
    MID_CHECKPOINT = "mid_checkpoint"  # half of a write to the database file is done

    @property
    def in_files(self) -> bool:
        """Whether the shim is needed to see it."""
        return self in {KillPoint.WRITING, KillPoint.UNSYNCED, KillPoint.MID_CHECKPOINT}


class Fault(StrEnum):
    """What befalls every write or every sync of one file."""

    FULL_WAL = "full_wal"  # half of each write is done, then the disk is full (SQLITE_FULL)
    FULL_DB = "full_db"  # the same for the database file: checkpoints fail
    SYNC_WAL = "sync_wal"  # each sync fails (SQLITE_IOERR_FSYNC), and what it was for is lost to later ones
    SYNC_DB = "sync_db"


class Sabotage(StrEnum):
    """A guarantee broken on purpose: the campaign must notice."""

    SYNCHRONOUS_NORMAL = "synchronous-normal"  # commits are not synced, checkpoints are
    EMIT_BEFORE_COMMIT = "emit-before-commit"  # events are published and effects emitted, then committed


@dataclass(frozen=True, slots=True)
class Orders:
    """For the launcher, as JSON over its command line."""

    serve: tuple[str, ...]  # arguments of `armin serve`
    database: str
    switchboard: str  # path of the Switchboard
    trace: str | None  # path of the trace; None: no shim
    die_at: str | None = None
    passing: int = 1
    sabotage: tuple[str, ...] = ()

    def encode(self) -> str:
        """As an argument."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, argument: str) -> Self:
        """From an argument."""
        fields: dict[str, Any] = json.loads(argument)
        return cls(**{**fields, "serve": tuple(fields["serve"]), "sabotage": tuple(fields["sabotage"])})


_FAULTS: Final[tuple[Fault | None, ...]] = (None, *Fault)
_FAULT, _KILLED = 0, 1  # bytes of the switchboard


class Switchboard:
    """Two bytes of memory shared with the engine: the fault in force, and whether it came to its end."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(2))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 2)

    @property
    def fault(self) -> Fault | None:
        """What befalls the files now."""
        return _FAULTS[self._bytes[_FAULT]]

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._bytes[_FAULT] = _FAULTS.index(fault)

    @property
    def killed(self) -> bool:
        """Whether the engine has come to its kill point."""
        return self._bytes[_KILLED] == 1

    @killed.setter
    def killed(self, killed: bool) -> None:
        self._bytes[_KILLED] = killed
