"""What tests put between an engine and its followers: a proxy that drops events, a cable that is cut."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

POLL_MS = 20  # in which a proxy notices that it is to end
CHUNK = 1 << 16


@contextmanager
def directory_like(engine: Path, directory: Path) -> Iterator[Path]:
    """A directory to connect to: the engine's own commands socket, and room for another live socket."""
    directory.mkdir()
    (directory / "commands.sock").symlink_to(engine / "commands.sock")
    yield directory


@contextmanager
def event_proxy(engine: Path, directory: Path, drops: Callable[[bytes, bytes], bool]) -> Iterator[Path]:
    """A live socket that passes on what the engine's carries, but for what `drops(topic, event)` says."""
    stop = threading.Event()
    ready = threading.Event()

    def run() -> None:
        with zmq.Context() as context, context.socket(zmq.XSUB) as source, context.socket(zmq.XPUB) as out:
            source.rcvhwm = out.sndhwm = source.sndhwm = out.rcvhwm = 0
            source.linger = out.linger = 0
            source.connect(f"ipc://{engine}/live.sock")
            out.bind(f"ipc://{directory}/live.sock")
            ready.set()
            while not stop.is_set():
                if source.poll(POLL_MS if not out.poll(0) else 0):
                    frames = source.recv_multipart()
                    if len(frames) != 2 or not drops(frames[0], frames[1]):
                        out.send_multipart(frames)
                while out.poll(0):
                    source.send(out.recv())

    with directory_like(engine, directory):
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(60)
        try:
            yield directory
        finally:
            stop.set()
            thread.join()


class Cable:
    """A live socket connected to the engine's byte by byte, until it is cut."""

    def __init__(self, engine: Path, directory: Path) -> None:
        self._engine = str(engine / "live.sock")
        self._whole = threading.Event()
        self._whole.set()
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "live.sock"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection; new ones are taken and lead nowhere until `mend`."""
        self._whole.clear()
        self._break()

    def mend(self) -> None:
        """Let connections through again."""
        self._whole.set()

    def close(self) -> None:
        """End."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._whole.set()
        self._break()

    def _break(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._whole.wait()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(self._engine)
        except OSError:
            near.close()
            return
        with self._lock:
            self._ends += (near, far)
            self.connections += 1
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(engine: Path, directory: Path) -> Iterator[tuple[Path, Cable]]:
    """A directory to connect to, whose live socket can be cut off."""
    with directory_like(engine, directory):
        between = Cable(engine, directory)
        try:
            yield directory, between
        finally:
            between.close()
