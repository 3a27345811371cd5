"""Engines that do not conform: a real one behind a proxy that alters what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgpack
import zmq

POLL_MS = 20  # how soon it sees that it is to end

Fields = dict[str, Any]
# What becomes of a reply: the replies that are sent instead, each with the frames in front of it.
Altered = list[tuple[list[bytes], bytes]]


@dataclass
class Fault:
    """What a proxy does wrong. Each is told the command, as far as it could be decoded.

    command: what is sent to the engine instead; None sends nothing. reply: what is answered instead.
    event: the live messages that are published instead.
    """

    command: Callable[[Fields], Fields | None] = lambda command: command
    reply: Callable[[Fields, Fields], Any] = lambda command, reply: reply
    frames: Callable[[Fields, list[bytes], bytes], Altered] = lambda command, envelope, reply: [
        (envelope, reply)
    ]
    event: Callable[[bytes, Fields], list[tuple[bytes, Fields]]] = lambda topic, event: [(topic, event)]


class FaultyEngine:
    """The commands and live sockets of `directory`, in front of those of a real engine."""

    def __init__(self, engine: Path, directory: Path, fault: Fault) -> None:
        self._engine = engine
        self._directory = directory
        self._fault = fault
        self._asked: dict[tuple[bytes, ...], list[Fields]] = {}  # commands under way by their envelope
        self._ending = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faulty engine")

    def __enter__(self) -> Self:
        self._directory.mkdir()
        self._thread.start()
        assert self._bound.wait(60)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context:
            front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
            source, out = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
            sockets = (front, back, source, out)
            for socket in sockets:
                socket.linger = 0
                socket.sndhwm = socket.rcvhwm = 0
            front.bind(f"ipc://{self._directory}/commands.sock")
            out.bind(f"ipc://{self._directory}/live.sock")
            back.connect(f"ipc://{self._engine}/commands.sock")
            source.connect(f"ipc://{self._engine}/live.sock")
            self._bound.set()
            poller = zmq.Poller()
            for socket in sockets:
                poller.register(socket, zmq.POLLIN)
            while not self._ending.is_set():
                ready = dict(poller.poll(POLL_MS))
                if out in ready:
                    source.send(out.recv())
                if front in ready:
                    self._pass_command(front.recv_multipart(), back)
                if source in ready:
                    self._pass_event(source.recv_multipart(), out)
                if back in ready:
                    self._pass_reply(back.recv_multipart(), front)
            for socket in sockets:
                socket.close()

    def _pass_command(self, frames: list[bytes], back: zmq.Socket[bytes]) -> None:
        *envelope, packed = frames
        command = _decoded(packed)
        altered = self._fault.command(dict(command)) if command else command
        if altered is None:
            return
        self._asked.setdefault(tuple(envelope), []).append(command)
        back.send_multipart([*envelope, msgpack.packb(altered) if altered != command else packed])

    def _pass_reply(self, frames: list[bytes], front: zmq.Socket[bytes]) -> None:
        *envelope, packed = frames
        asked = self._asked.get(tuple(envelope))
        command = asked.pop(0) if asked else {}
        altered = self._fault.reply(command, msgpack.unpackb(packed))
        for returned, reply in self._fault.frames(command, envelope[1:], msgpack.packb(altered)):
            front.send_multipart([envelope[0], *returned, reply])

    def _pass_event(self, frames: list[bytes], out: zmq.Socket[bytes]) -> None:
        if len(frames) == 1:  # a welcome
            out.send_multipart(frames)
            return
        topic, packed = frames
        for altered_topic, event in self._fault.event(topic, msgpack.unpackb(packed)):
            out.send_multipart([altered_topic, msgpack.packb(event)])


def _decoded(packed: bytes) -> Fields:
    try:
        command = msgpack.unpackb(packed)
    except (ValueError, msgpack.UnpackException):
        return {}
    return command if isinstance(command, dict) else {}
