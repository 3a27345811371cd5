"""What the memory of this process is made of, in bytes: objects, and what the allocators hold beside them."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.servers import memory_bytes

OURS: Final = "armin_engine"  # classes of these modules are walked through
WALKED: Final = (dict, list, tuple, set, frozenset)
LEAVES: Final = (int, str, bytes, bytearray, array)
SMALL_INTS: Final = range(-5, 257)  # of these there is one each, the interpreter's

ALIGNMENT: Final = 16  # of both allocators
PYMALLOC_MAX: Final = 512  # bytes; larger blocks are malloc's
MALLOC_HEADER: Final = 8

_STATISTICS: Final = {
    "free blocks": re.compile(r"# bytes in available blocks\s*=\s*([\d,]+)"),
    "unused pools": re.compile(r"unused pools \* \d+ bytes\s*=\s*([\d,]+)"),
    "pool headers": re.compile(r"# bytes lost to pool headers\s*=\s*([\d,]+)"),
    "quantization": re.compile(r"# bytes lost to quantization\s*=\s*([\d,]+)"),
    "arena alignment": re.compile(r"# bytes lost to arena alignment\s*=\s*([\d,]+)"),
}


class Held(NamedTuple):
    """Bytes that this process holds: in all, free within each allocator, and by SQLite."""

    resident: int
    free_pymalloc: int
    free_malloc: int
    sqlite: int

    @classmethod
    def now(cls) -> Held:
        """As it stands."""
        return cls(memory_bytes(os.getpid()), _free_in_pymalloc(), _free_in_malloc(), _used_by_sqlite())


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def can_tell() -> bool:
    """Whether this system's malloc says what it holds (glibc 2.33 or newer)."""
    return hasattr(ctypes.CDLL(None), "mallinfo2")


def _free_in_malloc() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    return int(mallinfo2().fordblks)


def _free_in_pymalloc() -> int:
    """CPython says it on the standard error, and there alone."""
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        text = file.read().decode()
    found = (pattern.search(text) for pattern in _STATISTICS.values())
    return sum(int(match[1].replace(",", "")) for match in found if match)


def _used_by_sqlite() -> int:
    """What the SQLite library has allocated; 0 where it is built into Python's module."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    for path in paths:
        if Path(path).name.startswith("libsqlite3"):
            used = ctypes.CDLL(path).sqlite3_memory_used
            used.restype = ctypes.c_int64
            return int(used())
    return 0


# --- objects ---------------------------------------------------------------------------------------------


class Objects:
    """All that can be reached from an object: how many of each type, their bytes, and the waste of rounding.

    `payload`: what bytes and arrays hold; the rest of each is its header. Arrays in `apart` are left out.
    """

    def __init__(self, root: object, apart: Sequence[object] = ()) -> None:
        self.count: Counter[str] = Counter()
        self.size: Counter[str] = Counter()
        self.payload: Counter[str] = Counter()
        self.room: int = 0  # what arrays and lists have allocated and do not use yet
        self.rounding: int = 0
        for each in _reachable(root, {id(each) for each in apart}):
            self._take(each)

    def _take(self, each: Any) -> None:
        name = type(each).__name__
        size = sys.getsizeof(each)
        self.count[name] += 1
        if isinstance(each, array):
            self._take_buffer(name, size, sys.getsizeof(array(each.typecode)), len(each) * each.itemsize)
        elif isinstance(each, list):
            self._take_buffer(name, size, sys.getsizeof([]), len(each) * ctypes.sizeof(ctypes.c_void_p))
        else:
            payload = len(each) if isinstance(each, bytes) else 0
            self.payload[name] += payload
            self.size[name] += size - payload
            self.rounding += rounded(size) - size

    def _take_buffer(self, name: str, size: int, header: int, used: int) -> None:
        """An object whose content is a block of its own."""
        buffer = size - header
        self.payload[name] += used
        self.size[name] += header
        self.room += buffer - used
        self.rounding += rounded(header) - header + (rounded(buffer) - buffer if buffer else 0)


def rounded(size: int) -> int:
    """What the allocators take for a block of so many bytes."""
    if size > PYMALLOC_MAX:
        size += MALLOC_HEADER
    return -(-size // ALIGNMENT) * ALIGNMENT


def _reachable(root: object, seen: set[int]) -> Iterator[object]:
    """Every object once, those of the interpreter and of other libraries left out."""
    stack: list[object] = [root]
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, LEAVES):
            if not (type(each) is int and each in SMALL_INTS):
                yield each
        elif isinstance(each, WALKED) or type(each).__module__.partition(".")[0] == OURS:
            yield each
            stack += gc.get_referents(each)
