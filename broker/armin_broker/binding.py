"""Where the three sockets are bound: on ipc for this user's processes, on tcp for holders of keys."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import zmq

from armin_broker import protocol
from armin_broker.authority import Authority
from armin_broker.config import Config
from armin_broker.keyring import Keyring
from armin_broker.privacy import openness
from armin_engine import OpenError

logger = logging.getLogger(__name__)

ACCEPT_BACKLOG: Final = 1024  # connections not yet accepted: all clients come back at once after a restart
HANDSHAKE_MS: Final = 10_000  # who has not said who it is by then is disconnected
HEARTBEAT_MS: Final = 10_000  # on tcp; a peer that vanished without a word is noticed by
HEARTBEAT_TIMEOUT_MS: Final = 30_000  # this

# libzmq's own threads: what strangers do to the ports does not hold up this user's processes.
IO_THREADS: Final = 2
_IPC_THREAD: Final = 1 << 0
_TCP_THREAD: Final = 1 << 1
TCP_THREAD_NAME: Final = "ZMQbg/IO/1"  # as libzmq calls it

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

Sockets = Mapping[str, zmq.Socket[bytes]]


class BindFailed(Exception):
    """A socket cannot be bound; says which and why."""


class InsecureRefused(Exception):
    """Strangers could come in by tcp, and nobody said that they may."""


class NotPrivate(Exception):
    """Other users of this machine could come in by ipc, and nobody said that they may."""


def authority_for(config: Config, context: zmq.Context[zmq.Socket[bytes]]) -> Authority | None:
    """Who guards the tcp endpoints; None where there are none, or where no keys were made.

    Raises InsecureRefused or KeysInvalid.
    """
    if config.tcp_host is None:
        return None
    keyring = Keyring(config.keys)
    if keyring.exists():
        return Authority(context, keyring)
    if is_loopback(config.tcp_host):
        logger.warning(
            "every user of this machine can come in at %s and read and write everything; make keys (armin"
            " keys new) and start again to lock it",
            config.tcp_host,
        )
    else:
        if not config.insecure:
            raise InsecureRefused(
                f"refused to serve tcp on {config.tcp_host} without keys: whoever reaches it could read and"
                f" write everything. Make keys (armin --dir {config.directory} keys new NAME --role writer)"
                " or say --insecure"
            )
        logger.warning("INSECURE: whoever reaches %s can read and write everything", config.tcp_host)
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def make_directories(config: Config) -> None:
    """Make the directories of the file and of the sockets. Raises OpenError, BindFailed or NotPrivate."""
    check_ipc_paths(config.sockets)
    for directory in dict.fromkeys((config.directory, config.sockets)):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            problem = openness(directory)
        except OSError as error:
            raise OpenError(f"cannot make the directory {directory}: {error.strerror}") from None
        if problem is not None:
            if not config.insecure:
                raise NotPrivate(f"{problem} (or say --insecure)")
            logger.warning("INSECURE: %s", problem)


def check_ipc_paths(directory: Path) -> None:
    """Raise BindFailed where a socket's path would be too long."""
    for name in _FILES.values():
        path = directory.resolve() / name
        size = len(os.fsencode(path))
        if size > protocol.IPC_PATH_BYTES_MAX:
            raise BindFailed(
                f"the socket path {path} is {size} bytes long; a Unix socket's may have"
                f" {protocol.IPC_PATH_BYTES_MAX}. Use a shorter directory, or --ipc-dir for the sockets alone"
            )


def bind(config: Config, sockets: Sockets, authority: Authority | None) -> dict[str, dict[str, Any]]:
    """Bind every socket; returns paths and ports by transport, as `hello` gives them. Raises BindFailed."""
    for each in sockets.values():
        each.backlog = ACCEPT_BACKLOG
        each.handshake_ivl = HANDSHAKE_MS
        each.affinity = _IPC_THREAD
    endpoints: dict[str, dict[str, Any]] = {"ipc": {}}
    for name, each in sockets.items():
        path = config.sockets.resolve() / _FILES[name]
        _bind_one(each, f"ipc://{path}")
        endpoints["ipc"][name] = str(path)
    if config.tcp_host is not None:
        # What is set from here on holds for the endpoints that are bound from here on.
        _prepare_tcp(sockets, config.tcp_host, authority)
        endpoints["tcp"] = {}
        for name, each in sockets.items():
            port = config.tcp_port + _PORT_OFFSETS[name] if config.tcp_port else 0
            _bind_one(each, f"tcp://{config.tcp_host}:{port}")
            endpoints["tcp"][name] = int(each.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    return endpoints


def _prepare_tcp(sockets: Sockets, host: str, authority: Authority | None) -> None:
    for name, each in sockets.items():
        each.affinity = _TCP_THREAD
        each.ipv6 = ":" in host
        each.heartbeat_ivl = HEARTBEAT_MS
        each.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        each.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS
        if authority is not None:
            authority.guard(each, name)


def _bind_one(zmq_socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        zmq_socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise BindFailed(f"cannot bind {endpoint}: {error.strerror}") from None


def bound_files(endpoints: dict[str, dict[str, Any]]) -> list[tuple[Path, os.stat_result]]:
    """The socket files, and what shows that they are still ours."""
    return [(Path(path), os.stat(path)) for path in endpoints["ipc"].values()]


def unlink(bound: Iterable[tuple[Path, os.stat_result]]) -> None:
    """Remove the socket files that are still the ones we bound."""
    for path, status in bound:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), status):
                path.unlink()
