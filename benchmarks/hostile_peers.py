"""Peers that mean harm, or are broken: what each of them does until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgpack
import zmq

from armin.credentials import load
from armin_broker import protocol

CROWD: Final = 1_000  # connections opened, then dropped, in one go
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY: Final = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"
HALF_FRAME: Final = b"\x02" + (1 << 20).to_bytes(8, "big") + b"x" * 100  # a frame of 1 MiB, cut off
HUGE: Final = 64 << 20

Over = Callable[[], bool]


class Place(NamedTuple):
    """An engine, with TCP ports for holders of keys, and one such key."""

    directory: Path
    ports: Mapping[str, int]
    key: Path | None

    def connect(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, name: str) -> zmq.Socket[bytes]:
        """A socket of somebody who may come in: by tcp with the key, or by ipc."""
        made = context.socket(kind)
        made.linger = 0
        if self.key is None:
            made.connect(f"ipc://{self.directory}/{name}.sock")
        else:
            for option, value in load(self.key).options().items():
                made.setsockopt(option, value)
            made.connect(f"tcp://127.0.0.1:{self.ports[name]}")
        return made

    def raw(self) -> list[socket.socket]:
        """New connections of a stranger, one to each socket by tcp."""
        return [socket.create_connection(("127.0.0.1", port), timeout=10) for port in self.ports.values()]


def come_and_go(place: Place, over: Over) -> None:
    """1,000 connections, then none, again and again; every second one begins a greeting."""
    while not over():
        with contextlib.ExitStack() as stack:
            for number in range(CROWD // len(place.ports)):
                for each in place.raw():
                    stack.enter_context(each)
                    if number % 2:
                        each.sendall(GREETING[:20])
                if over():
                    return


def half_frames(place: Place, over: Over) -> None:
    """Greetings and frames that are cut off, by tcp and by ipc, held open until the others are there."""
    while not over():
        with contextlib.ExitStack() as stack:
            for number in range(100):
                for each in place.raw():
                    stack.enter_context(each)
                    each.sendall((GREETING + READY + HALF_FRAME)[: 1 + number * 3])
                local = stack.enter_context(socket.socket(socket.AF_UNIX))
                local.settimeout(10)
                local.connect(str(place.directory / protocol.COMMANDS_SOCKET))
                local.sendall(GREETING + READY + HALF_FRAME)
            time.sleep(0.05)


def huge_frames(place: Place, over: Over) -> None:
    """Commands of 64 MiB from somebody who may come in, one after the other."""
    command = bytes(HUGE)
    with zmq.Context() as context:
        while not over():
            sender = place.connect(context, zmq.DEALER, "commands")
            with sender.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                sender.send(command, copy=False)
                monitor.poll(1000)  # the engine cuts the connection when it has seen the frame's length
                sender.close(0)


def never_reads(place: Place, over: Over) -> None:
    """Reads of a large session, sent as fast as the engine takes them; no reply is ever taken."""
    command = msgpack.packb({"op": "read", "session_id": 1, "limit": 10_000})
    with zmq.Context() as context, place.connect(context, zmq.DEALER, "commands") as sender:
        sender.rcvhwm = 1
        while not over():
            if sender.poll(10, zmq.POLLOUT):
                sender.send(command, zmq.NOBLOCK)


def stops(place: Place, over: Over) -> None:
    """A subscriber to everything that stops, as a process does on SIGSTOP, until it is over."""
    child = os.fork()
    if child == 0:
        with zmq.Context() as context, place.connect(context, zmq.SUB, "live") as live:
            live.subscribe(b"")
            live.recv_multipart()  # the welcome, which comes before the subscription is in place
            live.poll(10_000)
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        while not over():
            time.sleep(0.05)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


ATTACKS: Final[Mapping[str, Callable[[Place, Over], None]]] = {
    "1,000 connections come and go": come_and_go,
    "frames cut off": half_frames,
    "frames of 64 MiB": huge_frames,
    "one sends and never reads": never_reads,
    "one subscriber stopped": stops,
}
