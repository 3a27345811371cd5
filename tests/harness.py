"""Real engines for tests: a daemon as a process of its own, and a peer that speaks raw frames."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import msgpack
import zmq

from armin_broker import protocol

READY_S = 90.0  # a start or a stop that takes longer is a failure, on a machine however busy
REPLY_MS = 60_000  # a reply that takes longer is a failure


class Engine:
    """`armin serve DIRECTORY` as a process."""

    def __init__(self, directory: Path, *options: str, preexec: Callable[[], None] | None = None) -> None:
        self.directory = directory
        self.options = options
        self._preexec = preexec
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Engine:
        """Start it and wait until it says that it serves."""
        process = self.launch()
        line = self.line_within(READY_S)
        assert "serving" in line, (line, process.poll(), self.errors())
        return self

    def launch(self) -> subprocess.Popen[str]:
        """Start it without waiting."""
        command = [sys.executable, "-m", "armin.cli.main", "serve", str(self.directory), *self.options]
        self.log = self.directory.with_name(self.directory.name + ".log").open("ab")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            preexec_fn=self._preexec,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        return self.process

    def line_within(self, seconds: float) -> str:
        """The next line of its standard output; empty at its end."""
        assert self.process is not None
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert readable, f"the engine said nothing in {seconds} s"
        return self.process.stdout.readline()

    def errors(self) -> str:
        """What it has logged."""
        return self.directory.with_name(self.directory.name + ".log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL: no goodbye, no clean-up."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it logs where each of its threads is
            self.process.wait(READY_S)
            raise AssertionError(f"the engine did not end in {READY_S:g} s: {self.errors()}") from None
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code

    def rss(self) -> int:
        """Resident memory in bytes."""
        fields = Path(f"/proc/{self.pid}/statm").read_text("ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def endpoint(self, socket: str) -> str:
        """The ipc endpoint of `commands`, `live` or `effects`."""
        return f"ipc://{self.directory}/{socket}.sock"

    @contextmanager
    def peer(self) -> Iterator[Peer]:
        """A DEALER connected to it."""
        with Peer(self.endpoint("commands")) as peer:
            yield peer


class Sockets:
    """A context and the sockets opened in it, all closed together."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open: list[zmq.Socket[bytes]] = []

    def open(
        self, kind: int, endpoint: str | None = None, *topics: bytes, key: Mapping[int, bytes] | None = None
    ) -> zmq.Socket[bytes]:
        """A socket without high-water marks, subscribed and connected; `key` has options of CURVE."""
        socket = self.keep(self.context.socket(kind))
        for option, value in (key or {}).items():
            socket.setsockopt(option, value)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0
        socket.rcvtimeo = REPLY_MS
        for topic in topics:
            socket.subscribe(topic)
        if endpoint is not None:
            socket.connect(endpoint)
        return socket

    def keep(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Close this one too."""
        self._open.append(socket)
        return socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Vanish."""
        for each in self._open:
            each.close(linger=0)
        self.context.term()


class Peer(Sockets):
    """A DEALER that speaks raw frames: `[correlation id, command]`, pipelining as it likes."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER, key: Mapping[int, bytes] | None = None) -> None:
        super().__init__()
        self.socket = self.open(kind, endpoint, key=key)
        self._sent = 0

    def send(self, op: str, **fields: Any) -> bytes:
        """Send a command without waiting; returns its correlation id."""
        self._sent += 1
        correlation = b"%d" % self._sent
        self.socket.send_multipart([correlation, msgpack.packb({"op": op, **fields})])
        return correlation

    def receive(self) -> tuple[bytes, dict[str, Any]]:
        """The next reply and its correlation id."""
        correlation, reply = self.socket.recv_multipart()
        return correlation, msgpack.unpackb(reply)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its reply."""
        correlation = self.send(op, **fields)
        answered, reply = self.receive()
        assert answered == correlation
        return reply

    def listen(self, endpoint: str, *topics: bytes) -> zmq.Socket[bytes]:
        """A SUB at a live socket, its subscriptions in force; what came until then is dropped.

        Each try has a token of its own, so behind the last one nothing of the others comes.
        """
        live = self.open(zmq.SUB, endpoint, *topics, b"~sync/")
        tries = 0
        while True:
            tries += 1
            assert self.ask("sync", token=f"t{tries}")["ok"]
            while live.poll(protocol.SYNC_RESEND_MS):
                if live.recv_multipart()[0] == protocol.sync_topic(f"t{tries}"):
                    live.unsubscribe(b"~sync/")
                    return live

    def raw(self, frames: Sequence[bytes]) -> list[bytes]:
        """Send frames as they are and wait for the frames that come back."""
        self.socket.send_multipart(frames)
        return self.socket.recv_multipart()


def free_ports() -> int:
    """The first of three ports in a row at which nobody listens; each test process looks elsewhere first."""
    for port in range(21_000 + 3 * (os.getpid() % 3_000), 32_000, 3):  # below those of connections
        with ExitStack() as stack:
            try:
                for number in range(port, port + 3):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
        return port
    raise AssertionError("no free ports")


def wait_until(condition: Callable[[], bool], seconds: float = READY_S, what: str = "") -> None:
    """Poll a condition until it holds; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


@contextmanager
def failing_writes(engine: Engine) -> Iterator[None]:
    """No file of the engine may grow: writing to the WAL fails in the kernel (EFBIG)."""
    soft, hard = resource.prlimit(engine.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (soft, hard))
