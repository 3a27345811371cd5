"""Where the engine is: a data directory on this machine, or a TCP address."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from armin.credentials import KEY_VARIABLE, Credentials, load
from armin.errors import ProtocolError, TargetError
from armin.results import Hello
from armin_broker.protocol import COMMANDS_SOCKET, IPC_PATH_BYTES_MAX

URL_VARIABLE: Final = "ARMIN_URL"
DIR_VARIABLE: Final = "ARMIN_DIR"

_TCP: Final = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s]+):(?P<port>\d{1,5})/?")


@dataclass(frozen=True, slots=True)
class DirectoryTarget:
    """An engine on this machine, through the sockets in its data directory (an absolute path)."""

    directory: str
    credentials: ClassVar[None] = None  # the directory's permissions are enough

    @property
    def commands(self) -> str:
        """Endpoint of the commands socket."""
        return self._socket(COMMANDS_SOCKET)

    def live(self, hello: Hello) -> str:
        """Endpoint of the live socket."""
        return self._socket(_file_name(hello, "live"))

    def effects(self, hello: Hello) -> str:
        """Endpoint of the effects socket."""
        return self._socket(_file_name(hello, "effects"))

    def _socket(self, name: str) -> str:
        path = os.path.join(self.directory, name)
        size = len(os.fsencode(path))
        if size > IPC_PATH_BYTES_MAX:
            raise TargetError(
                f"the socket path {path} is {size} bytes long and the system allows {IPC_PATH_BYTES_MAX}; "
                "use a directory with a shorter path, or TCP",
                field="target",
                limit=IPC_PATH_BYTES_MAX,
            )
        return f"ipc://{path}"


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """An engine that listens on TCP. An IPv6 host keeps its brackets."""

    host: str
    port: int
    credentials: Credentials | None = None

    @property
    def commands(self) -> str:
        """Endpoint of the commands socket."""
        return f"tcp://{self.host}:{self.port}"

    def live(self, hello: Hello) -> str:
        """Endpoint of the live socket."""
        return f"tcp://{self.host}:{_port(hello, 'live')}"

    def effects(self, hello: Hello) -> str:
        """Endpoint of the effects socket."""
        return f"tcp://{self.host}:{_port(hello, 'effects')}"


Target = DirectoryTarget | TcpTarget


def find_target(
    target: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    key: str | os.PathLike[str] | None = None,
) -> Target:
    """The engine meant by `target`, or by the environment where it is None.

    `key` is the file to connect with by TCP; where it is None, ARMIN_KEY may name one.

    Raises:
        TargetError: neither says where the engine is, or it cannot be understood; the key cannot be used.
    """
    found = _find(target, environ)
    if isinstance(found, DirectoryTarget):
        if key is not None:
            raise TargetError("a key is for tcp://HOST:PORT; a directory's sockets need none", field="key")
        return found
    file = key if key is not None else environ.get(KEY_VARIABLE)
    return replace(found, credentials=load(file)) if file else found


def _find(target: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Target:
    if target is None:
        target = environ.get(URL_VARIABLE) or environ.get(DIR_VARIABLE)
        if not target:
            raise TargetError(
                "no engine is named: pass a directory or a tcp:// address, "
                f"or set {DIR_VARIABLE} or {URL_VARIABLE}",
                field="target",
            )
    if isinstance(target, Path):  # never a URL, whatever it looks like
        return _directory(str(target), str(target))
    text = os.fspath(target)
    if text.startswith("tcp:"):
        return _tcp(text)
    if text.startswith("ipc://"):
        return _directory(text.removeprefix("ipc://"), text)
    if "://" in text:
        raise TargetError(f"{text} is neither a directory nor ipc://DIR nor tcp://HOST:PORT", field="target")
    return _directory(text, text)


def _directory(path: str, given: str) -> DirectoryTarget:
    if not path or "\0" in path:
        raise TargetError(f"{given!r} names no directory", field="target")
    target = DirectoryTarget(os.path.abspath(path))
    _ = target.commands  # refuses a path that is too long for a socket
    return target


def _tcp(text: str) -> TcpTarget:
    match = _TCP.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise TargetError(f"{text} is no tcp://HOST:PORT with a port from 1 to 65535", field="target")
    return TcpTarget(match["host"], int(match["port"]))


def _file_name(hello: Hello, socket: str) -> str:
    path = _place(hello, "ipc", socket)
    if not isinstance(path, str) or not os.path.basename(path):
        raise ProtocolError(f"the engine names no file for its {socket} socket")
    return os.path.basename(path)


def _port(hello: Hello, socket: str) -> int:
    port = _place(hello, "tcp", socket)
    if type(port) is not int or not 1 <= port <= 65535:
        raise ProtocolError(f"the engine names no port for its {socket} socket")
    return port


def _place(hello: Hello, transport: str, socket: str) -> object:
    places = hello.endpoints.get(transport)
    return places.get(socket) if isinstance(places, Mapping) else None
