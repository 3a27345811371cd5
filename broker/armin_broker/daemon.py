"""The daemon: lock and recover, bind, serve, leave cleanly."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import zmq

from armin_broker import protocol
from armin_broker.command_socket import CommandSocket
from armin_broker.config import Config
from armin_broker.effects_socket import EffectsSocket
from armin_broker.live_socket import LiveSocket
from armin_broker.loop import Loop
from armin_engine import (
    AlreadyOwned,
    Armin,
    CorruptDatabase,
    MemoryExceeded,
    NewerSchema,
    NotAnArminDatabase,
    OpenError,
)

logger = logging.getLogger(__name__)

ACCEPT_BACKLOG: Final = 1024  # connections not yet accepted: all clients come back at once after a restart
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
LINGER_MS: Final = 1000  # how long the last replies and the goodbye may take to leave
SWITCH_INTERVAL_S: Final = 0.0005  # a verification's thread gives way to the loop this soon
YOUNG_OBJECTS: Final = 50_000  # more than a group commit makes, so most are gone before any is looked at
FULL_COLLECTIONS: Final = 1_000_000  # collections of younger objects between two of all: next to never
TCP_KEEPALIVE_IDLE_S: Final = 60  # a peer that vanished without a word is noticed in minutes


class BindFailed(Exception):
    """A socket cannot be bound; says which and why."""


# Each kind of start-up failure has its own exit code.
EXIT_CODES: Final[dict[type[Exception], int]] = {
    AlreadyOwned: 10,
    NotAnArminDatabase: 11,
    NewerSchema: 12,
    CorruptDatabase: 13,
    MemoryExceeded: 14,
    OpenError: 15,
    BindFailed: 16,
}


def exit_code(error: OpenError | BindFailed) -> int:
    """The exit code for a start-up failure."""
    return EXIT_CODES[type(error)]


def serve(
    config: Config,
    *,
    ready: Callable[[dict[str, dict[str, Any]]], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises OpenError or BindFailed if it cannot start.

    `ready` gets the endpoints once all sockets are bound; `progress` the facts recovered and in all.
    """
    os.umask(0o077)  # the file, its lock and the sockets are the owner's alone
    _check_ipc_paths(config.sockets)
    _make_directory(config.directory)
    _make_directory(config.sockets)
    _raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    effects = EffectsSocket(context, config.effects_backlog, config.effects_backlog_bytes)
    commands, live = CommandSocket(context), LiveSocket(context)
    sockets = {"commands": commands.socket, "live": live.socket, "effects": effects.socket}
    try:
        with (
            _signals() as wake,
            Armin(
                config.database, sink=effects, memory_budget=config.memory_budget, progress=progress
            ) as armin,
        ):
            _spare_history_from_collection()
            endpoints = _bind(config, sockets)
            bound = [(Path(path), os.stat(path)) for path in endpoints["ipc"].values()]
            loop = Loop(armin, config, commands, live, effects, wake.descriptor, endpoints)
            wake.stop = loop.stop
            armin.note("serving")
            ready(endpoints)
            if not wake.asked:
                loop.run()
            # Sockets before the lock: whoever takes the lock next must find the paths free.
            context.destroy(linger=LINGER_MS)
            _unlink(bound)
    finally:
        context.destroy(linger=0)


# --- signals --------------------------------------------------------------------------------------


class _Wake:
    """What a signal does: remember it, stop the loop, make its poll return."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.asked = False
        self.stop: Callable[[], None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.stop is not None:
            self.stop()
        else:
            raise SystemExit(128 + number)  # still recovering: there is nothing to finish


@contextlib.contextmanager
def _signals() -> Iterator[_Wake]:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    wake = _Wake(reader.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, wake)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        # The process is about to end: a second signal must not turn a clean end into a kill.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(previous)
        reader.close()
        writer.close()


# --- sockets --------------------------------------------------------------------------------------

_FILES: Final = {
    "commands": protocol.COMMANDS_SOCKET,
    "live": protocol.LIVE_SOCKET,
    "effects": protocol.EFFECTS_SOCKET,
}
_PORT_OFFSETS: Final = {
    "commands": 0,
    "live": protocol.LIVE_PORT_OFFSET,
    "effects": protocol.EFFECTS_PORT_OFFSET,
}


def _bind(config: Config, sockets: dict[str, zmq.Socket[bytes]]) -> dict[str, dict[str, Any]]:
    """Bind every socket; returns paths and ports by transport, as `hello` gives them."""
    endpoints: dict[str, dict[str, Any]] = {"ipc": {}}
    for zmq_socket in sockets.values():
        zmq_socket.backlog = ACCEPT_BACKLOG
    for name, zmq_socket in sockets.items():
        path = config.sockets.resolve() / _FILES[name]
        _bind_one(zmq_socket, f"ipc://{path}")
        endpoints["ipc"][name] = str(path)
    if config.tcp_host is not None:
        if config.tcp_host not in LOOPBACK_HOSTS:
            logger.warning("whoever reaches %s can read and write everything", config.tcp_host)
        endpoints["tcp"] = {}
        for name, zmq_socket in sockets.items():
            port = config.tcp_port + _PORT_OFFSETS[name] if config.tcp_port else 0
            zmq_socket.ipv6 = ":" in config.tcp_host
            zmq_socket.tcp_keepalive = 1
            zmq_socket.tcp_keepalive_idle = TCP_KEEPALIVE_IDLE_S
            _bind_one(zmq_socket, f"tcp://{config.tcp_host}:{port}")
            endpoints["tcp"][name] = int(zmq_socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    return endpoints


def _unlink(bound: list[tuple[Path, os.stat_result]]) -> None:
    """Remove the socket files that are still the ones we bound."""
    for path, status in bound:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), status):
                path.unlink()


def _bind_one(zmq_socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        zmq_socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise BindFailed(f"cannot bind {endpoint}: {error.strerror}") from None


def _check_ipc_paths(directory: Path) -> None:
    for name in _FILES.values():
        path = directory.resolve() / name
        size = len(os.fsencode(path))
        if size > protocol.IPC_PATH_BYTES_MAX:
            raise BindFailed(
                f"the socket path {path} is {size} bytes long; a Unix socket's may have"
                f" {protocol.IPC_PATH_BYTES_MAX}. Use a shorter directory, or --ipc-dir for the sockets alone"
            )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OpenError(f"cannot make the directory {directory}: {error.strerror}") from None


def _spare_history_from_collection() -> None:
    """Let Python's garbage collector look at young objects alone.

    What history is made of has no cycles and stays; to look through all of it stopped the loop for 0.2 s at
    200,000 sessions, again and again. What errors leave behind in cycles is young.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, FULL_COLLECTIONS)


def _raise_descriptor_limit() -> None:
    # libzmq aborts the process when accept finds no descriptor left.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems say "infinite" and mean less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
