"""The keys of an engine, as files: whose public key may do what.

DIR/keys/server.key   the engine's own pair; its public half is pinned by every client
DIR/keys/NAME.json    a client's public key and its role: what the engine goes by
DIR/keys/NAME.key     the client's pair and the server's public key: handed out, then best deleted here

Everything is JSON, readable by its owner alone, and appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq
from zmq.utils import z85

from armin_broker import protocol
from armin_broker.privacy import openness
from armin_broker.sender import Sender
from armin_engine.ownership import give, make_directory
from armin_engine.upgrade import sync

SERVER_FILE: Final = "server.key"
PUBLIC_SUFFIX: Final = ".json"
KEY_SUFFIX: Final = ".key"
NAME_CHARACTERS_MAX: Final = 64

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9_.-]{{0,{NAME_CHARACTERS_MAX - 1}}}")
_RESERVED: Final = "server"


class KeysInvalid(Exception):
    """A file of keys that cannot be used; says which and why."""


class KeyRefused(Exception):
    """A key that cannot be made or revoked as asked."""


class Pair(NamedTuple):
    """A Curve25519 key pair in Z85."""

    public: bytes
    secret: bytes

    @staticmethod
    def new() -> Pair:
        """A random one."""
        return Pair(*zmq.curve_keypair())


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What the engine knows of a client's key."""

    name: str
    role: str
    public: str
    created_at: int  # milliseconds since the epoch

    @property
    def sender(self) -> Sender:
        """Who this key shows somebody to be."""
        return Sender(self.role, self.name)


class Keyring:
    """The keys in one directory. What is made or revoked here, a running engine takes up by itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def exists(self) -> bool:
        """Whether keys were ever made here. Raises KeysInvalid where that cannot be told."""
        try:
            return any(
                name == SERVER_FILE or name.endswith(PUBLIC_SUFFIX) for name in os.listdir(self.directory)
            )
        except FileNotFoundError:
            return False
        except OSError as error:
            raise KeysInvalid(f"{self.directory}: {error.strerror}") from None

    # --- reading ---

    def server(self) -> Pair:
        """The engine's own pair. Raises KeysInvalid."""
        check_private(self.directory)
        path = self.directory / SERVER_FILE
        fields = _read(path)
        pair = Pair(_key(fields, "public", path), _key(fields, "secret", path))
        try:
            public = zmq.curve_public(pair.secret)
        except zmq.ZMQError:
            public = b""
        if public != pair.public:
            raise KeysInvalid(f"{path}: its two keys are no pair")
        return pair

    def clients(self) -> tuple[list[ClientKey], list[str]]:
        """Every client's key, and what is wrong with those that cannot be used.

        Raises OSError where they cannot be read for now.
        """
        try:
            check_private(self.directory)
        except KeysInvalid as error:
            return [], [str(error)]
        found: dict[str, list[ClientKey]] = {}
        problems = []
        for path in sorted(self.directory.glob(f"*{PUBLIC_SUFFIX}")):
            try:
                key = _client(path)
            except FileNotFoundError:  # revoked since
                continue
            except KeysInvalid as error:
                problems.append(str(error))
                continue
            found.setdefault(key.public, []).append(key)
        for twins in found.values():
            if len(twins) > 1:
                names = ", ".join(key.name for key in twins)
                problems.append(f"{self.directory}: {names} are one and the same key, so none of them counts")
        return [twins[0] for twins in found.values() if len(twins) == 1], problems

    def signature(self) -> tuple[tuple[object, ...], ...]:
        """Changes whenever a client's key was added, removed or changed, or opened to others.

        Raises OSError where that cannot be told.
        """
        try:
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(PUBLIC_SUFFIX)]
        except FileNotFoundError:
            return ()
        found = [_seen(self.directory / name) for name in sorted(names)]
        return (_owned(self.directory), *(each for each in found if each))

    # --- changing ---

    def new(self, name: str, role: str, out: Path | None = None) -> tuple[ClientKey, Path]:
        """Make a client's key; returns it and the file to be handed out (`out`, or DIR/keys/NAME.key).

        Raises KeyRefused, KeysInvalid or OSError.
        """
        check_name(name)
        if role not in protocol.KEY_ROLES:
            raise KeyRefused(f"there is no role {role}; there are {', '.join(protocol.KEY_ROLES)}")
        server = self._server_or_new()
        pair = Pair.new()
        key = ClientKey(name, role, pair.public.decode(), time.time_ns() // 1_000_000)
        handed = self.directory / (name + KEY_SUFFIX) if out is None else out
        public = self.directory / (name + PUBLIC_SUFFIX)
        if not handed.parent.is_dir():
            raise KeyRefused(f"there is no directory {handed.parent}")
        if public.exists():
            raise KeyRefused(f"there is a key {name} already; revoke it first, or choose another name")
        known = {"armin_key": protocol.KEY_FORMAT, "name": name, "role": role, "public": key.public}
        # The client's file first: a key that the engine knows and nobody has could only be revoked.
        _write_new(handed, {**known, "secret": pair.secret.decode(), "server": server.public.decode()})
        try:
            _write_new(public, {**known, "created_at": key.created_at})
        except BaseException:
            handed.unlink(missing_ok=True)
            raise
        return key, handed

    def revoke(self, name: str) -> None:
        """Forget a client's key. Raises KeyRefused where there is none, or OSError."""
        check_name(name)
        try:
            (self.directory / (name + PUBLIC_SUFFIX)).unlink()
        except FileNotFoundError:
            raise KeyRefused(f"there is no key {name}") from None
        (self.directory / (name + KEY_SUFFIX)).unlink(missing_ok=True)
        sync(self.directory)

    def _server_or_new(self) -> Pair:
        for directory in (self.directory.parent, self.directory):  # the engine's own may be made only later
            make_directory(directory)
        check_private(self.directory)
        if not (self.directory / SERVER_FILE).exists():
            pair = Pair.new()
            with suppress(FileExistsError):  # somebody else was faster
                _write_new(
                    self.directory / SERVER_FILE,
                    {
                        "armin_key": protocol.KEY_FORMAT,
                        "public": pair.public.decode(),
                        "secret": pair.secret.decode(),
                    },
                )
        return self.server()


def _seen(path: Path) -> tuple[object, ...]:
    """What shows that a file is the same, with the same rights; nothing if it is gone. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    times = status.st_mtime_ns, status.st_ctime_ns
    return path.name, status.st_ino, status.st_size, *times, status.st_mode, status.st_uid


def _owned(path: Path) -> tuple[object, ...]:
    status = path.stat()
    return status.st_mode, status.st_uid


def check_name(name: str) -> None:
    """Raise KeyRefused unless `name` can be a key's."""
    if _NAME.fullmatch(name) is None or name == _RESERVED:
        raise KeyRefused(
            f"{name!r} cannot be a key's name: 1 to {NAME_CHARACTERS_MAX} of a-z, 0-9, . _ -,"
            f" beginning with a letter or digit, and not {_RESERVED!r}"
        )


def check_private(path: Path) -> None:
    """Raise KeysInvalid unless `path` is its owner's alone."""
    try:
        problem = openness(path)
    except OSError as error:
        raise KeysInvalid(f"{path}: {error.strerror}") from None
    if problem is not None:
        raise KeysInvalid(problem)


def _client(path: Path) -> ClientKey:
    """A client's key. Raises KeysInvalid, or FileNotFoundError where it is gone."""
    fields = _read(path)
    role = fields.get("role")
    if role not in protocol.KEY_ROLES:
        raise KeysInvalid(f"{path}: its role is none of {', '.join(protocol.KEY_ROLES)}")
    created_at = fields.get("created_at")
    return ClientKey(
        path.name.removesuffix(PUBLIC_SUFFIX),
        role,
        _key(fields, "public", path).decode(),
        created_at if type(created_at) is int else 0,
    )


def _read(path: Path) -> Mapping[str, Any]:
    """The fields of one of our files. Raises KeysInvalid, or OSError where it cannot be read for now.

    That is FileNotFoundError for a client's that is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # whatever is there
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise KeysInvalid(f"{path} is no regular file")
            text = file.read(protocol.KEY_FILE_BYTES_MAX + 1)
        check_private(path)
    except PermissionError as error:
        raise KeysInvalid(f"{path}: {error.strerror}") from None
    except FileNotFoundError as error:
        if path.name != SERVER_FILE:
            raise
        raise KeysInvalid(f"{path}: {error.strerror}") from None
    try:
        if len(text) > protocol.KEY_FILE_BYTES_MAX:
            raise ValueError("it is too large")
        fields = json.loads(text)
        if not isinstance(fields, dict) or fields.get("armin_key") != protocol.KEY_FORMAT:
            raise ValueError(f"its field armin_key is not {protocol.KEY_FORMAT}")
    except (ValueError, RecursionError) as error:
        raise KeysInvalid(f"{path} is no file of keys: {error}") from None
    return fields


def _key(fields: Mapping[str, Any], name: str, path: Path) -> bytes:
    text = fields.get(name)
    if isinstance(text, str) and len(text) == protocol.KEY_CHARACTERS and text.isascii():
        with suppress(KeyError, ValueError, struct.error):  # the last where it is out of Z85's range
            z85.decode(text)
            return text.encode()
    raise KeysInvalid(f"{path}: its field {name} is no key of {protocol.KEY_CHARACTERS} characters (Z85)")


def _write_new(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a file that does not exist yet, whole and on disk or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(fields, file, indent=1)
            file.write("\n")
            file.flush()
            give(file.fileno(), path.parent)
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, it never replaces a file
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
