"""A shim between SQLite and its files, through ctypes: the default VFS with four methods replaced.

It works where the SQLite library that Python's `sqlite3` uses can be reached: as the shared library
behind the `_sqlite3` extension module, or within a statically linked Python that exports its symbols.

Interface: https://www.sqlite.org/c3ref/vfs.html and https://www.sqlite.org/c3ref/io_methods.html
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import sqlite3
import tempfile
import traceback
from collections.abc import Callable, Mapping
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Final, Protocol

from armin.torture.trace import Which

VFS_NAME: Final = b"armin-torture"
METHODS_VERSION: Final = 2  # of the replaced table: version 3 adds memory-mapped reads, which we do without
EXIT_SHIM_FAILED: Final = 70


_ALIVE: Final[list[object]] = []  # SQLite holds pointers into every shim for as long as the process lives


class ShimUnavailable(Exception):
    """SQLite's library cannot be reached here; says why."""


class Watcher(Protocol):
    """Decides what becomes of each operation. Each returns a SQLite result code; `do` does the real thing."""

    def write(self, which: Which, offset: int, data: bytes, do: Callable[[int], int]) -> int:
        """A write; `do(size)` writes the first `size` bytes of it."""

    def truncate(self, which: Which, size: int, do: Callable[[], int]) -> int:
        """The file cut to `size` bytes."""

    def sync(self, which: Which, do: Callable[[], int]) -> int:
        """What was written is to be durable."""

    def delete(self, which: Which, do: Callable[[], int]) -> int:
        """The file removed."""


def _pointers(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_void_p) for name in names]


class _Vfs(Structure):
    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        *_pointers("pAppData", "xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError"),
        *_pointers("xDlSym", "xDlClose", "xRandomness", "xSleep", "xCurrentTime", "xGetLastError"),
        *_pointers("xCurrentTimeInt64", "xSetSystemCall", "xGetSystemCall", "xNextSystemCall"),
    )


class _Methods(Structure):
    _fields_ = (
        ("iVersion", c_int),
        *_pointers("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock"),
        *_pointers("xCheckReservedLock", "xFileControl", "xSectorSize", "xDeviceCharacteristics"),
        *_pointers("xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap"),
    )


class _File(Structure):
    _fields_ = (("pMethods", POINTER(_Methods)),)


_OPEN: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_DELETE: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE: Final = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC: Final = CFUNCTYPE(c_int, c_void_p, c_int)


def library() -> ctypes.CDLL:
    """The SQLite that `sqlite3` uses. Raises ShimUnavailable."""
    file = getattr(_sqlite3, "__file__", None)
    try:
        found = ctypes.CDLL(file)  # None: the process itself
        found.sqlite3_libversion.restype = c_char_p
        found.sqlite3_vfs_find.restype = POINTER(_Vfs)
        found.sqlite3_vfs_find.argtypes = (c_char_p,)
        found.sqlite3_vfs_register.argtypes = (POINTER(_Vfs), c_int)
        version = found.sqlite3_libversion().decode()
    except (OSError, AttributeError) as error:
        raise ShimUnavailable(f"this Python hides its SQLite ({error})") from None
    if version != sqlite3.sqlite_version or not found.sqlite3_vfs_find(None):
        raise ShimUnavailable(f"found SQLite {version}, but sqlite3 uses {sqlite3.sqlite_version}")
    return found


def why_not() -> str | None:
    """Why files cannot be watched here; None where they can."""
    try:
        library()
    except ShimUnavailable as error:
        return str(error)
    return None


class Shim:
    """The VFS that every connection opened from now on uses, in this process. Raises ShimUnavailable.

    `files` are the real paths of what is watched; all others pass through. Lives as long as the process.
    """

    def __init__(self, files: Mapping[str, Which], watcher: Watcher) -> None:
        self._files = {os.fsencode(path): which for path, which in files.items()}
        self._watcher = watcher
        self._opened = 0
        self._which: dict[int, Which] = {}  # by address of the open file
        self._tables: dict[int, _Methods] = {}  # by address of the table that each replaces
        self._keep: list[object] = []  # what C holds pointers to
        self._library = library()
        self._original = self._library.sqlite3_vfs_find(None)
        self._open = _OPEN(self._original.contents.xOpen)
        self._delete = _DELETE(self._original.contents.xDelete)
        vfs = _Vfs.from_buffer_copy(self._original.contents)
        vfs.zName, vfs.pNext = VFS_NAME, None
        vfs.xOpen = self._callback(_OPEN, self._on_open)
        vfs.xDelete = self._callback(_DELETE, self._on_delete)
        self._keep.append(vfs)
        _ALIVE.append(self)
        if self._library.sqlite3_vfs_register(ctypes.byref(vfs), 1) != sqlite3.SQLITE_OK:
            raise ShimUnavailable("SQLite did not take the VFS")
        self._prove()

    def _prove(self) -> None:
        """See for ourselves that `sqlite3` opens its files through us."""
        with tempfile.TemporaryDirectory() as directory:
            connection = sqlite3.connect(Path(directory) / "probe")
            connection.execute("CREATE TABLE probe (x)")
            connection.close()
        if not self._opened:
            raise ShimUnavailable("sqlite3 does not open its files through the SQLite that was found")

    def _callback(self, kind: Any, function: Callable[..., int]) -> int | None:
        """The address of a C function; whatever goes wrong in it ends the process, ctypes would go on."""

        def guarded(*arguments: Any) -> int:
            try:
                return function(*arguments)
            except BaseException:  # noqa: BLE001 - nothing may pass as a success
                traceback.print_exc()
                os._exit(EXIT_SHIM_FAILED)

        callback = kind(guarded)
        self._keep.append(callback)
        return ctypes.cast(callback, c_void_p).value

    # --- the file system --------------------------------------------------------------------------

    def _on_open(self, _vfs: int, name: int | None, file: Any, flags: int, out_flags: int | None) -> int:
        self._opened += 1
        address = ctypes.addressof(file.contents)
        code: int = self._open(ctypes.cast(self._original, c_void_p), name, file, flags, out_flags)
        which = None if name is None else self._files.get(ctypes.string_at(name))
        self._which.pop(address, None)
        if code == sqlite3.SQLITE_OK and which is not None:
            self._which[address] = which
            file.contents.pMethods = ctypes.pointer(self._table(file.contents.pMethods))
        return code

    def _on_delete(self, _vfs: int, name: int, sync_directory: int) -> int:
        def do() -> int:
            return int(self._delete(ctypes.cast(self._original, c_void_p), name, sync_directory))

        which = self._files.get(ctypes.string_at(name))
        return do() if which is None else self._watcher.delete(which, do)

    # --- one file ---------------------------------------------------------------------------------

    def _table(self, original: Any) -> _Methods:
        address = ctypes.addressof(original.contents)
        table = self._tables.get(address)
        if table is None:
            table = self._tables[address] = self._replaced(original.contents)
        return table

    def _replaced(self, original: _Methods) -> _Methods:
        if original.iVersion < METHODS_VERSION:
            raise ShimUnavailable(f"SQLite's VFS has version {original.iVersion} methods: no WAL")
        table = _Methods.from_buffer_copy(original)
        table.iVersion = METHODS_VERSION
        which, watcher = self._which, self._watcher
        write, truncate, sync = _WRITE(table.xWrite), _TRUNCATE(table.xTruncate), _SYNC(table.xSync)

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            return watcher.write(
                which[file],
                offset,
                ctypes.string_at(data, size),
                lambda part: int(write(file, data, part, offset)),
            )

        def on_truncate(file: int, size: int) -> int:
            return watcher.truncate(which[file], size, lambda: int(truncate(file, size)))

        def on_sync(file: int, flags: int) -> int:
            return watcher.sync(which[file], lambda: int(sync(file, flags)))

        table.xWrite = self._callback(_WRITE, on_write)
        table.xTruncate = self._callback(_TRUNCATE, on_truncate)
        table.xSync = self._callback(_SYNC, on_sync)
        return table
