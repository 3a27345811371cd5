"""What the service manager is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from armin_broker.notify import RECOVERY_SLACK_S, Notifier


@pytest.fixture
def manager(short_dir: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_dir / "n"))
        manager.setblocking(False)
        yield manager


def told(manager: socket.socket) -> list[str]:
    """Every message that has come."""
    messages = []
    try:
        while True:
            messages.append(manager.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_the_variables_are_taken_so_that_no_child_speaks_for_the_engine() -> None:
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier.from_environment(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("variables", "beats"),
    [
        ({"WATCHDOG_USEC": "9000000"}, True),
        ({"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({}, False),
    ],
)
def test_the_watchdog_is_fed_only_where_it_watches_this_process(
    manager: socket.socket, variables: dict[str, str], beats: bool
) -> None:
    Notifier.from_environment({"NOTIFY_SOCKET": manager.getsockname(), **variables}).alive()
    assert told(manager) == ["WATCHDOG=1"] * beats


def test_a_watchdog_faster_than_the_loop_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    Notifier.from_environment({"WATCHDOG_USEC": "1999999"})
    assert "WatchdogSec should be 2000 ms or more" in caplog.text


def test_recovery_says_how_far_it_is_and_asks_for_time_but_not_at_every_step(manager: socket.socket) -> None:
    now = 0.0
    notifier = Notifier(manager.getsockname(), clock=lambda: now)
    for step in range(100):
        now = step / 100
        notifier.recovering(step, 100)
    more = f"EXTEND_TIMEOUT_USEC={RECOVERY_SLACK_S}000000"
    assert told(manager) == [f"STATUS=recovering, {done} of 100 facts\n{more}" for done in (0, 50)]


def test_a_lost_ready_is_said_again_with_the_next_sign_of_life(short_dir: Path) -> None:
    notifier = Notifier(str(short_dir / "n"))
    notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_dir / "n"))
        manager.setblocking(False)
        notifier.alive()
        notifier.alive()
        assert told(manager) == ["READY=1\nSTATUS=serving"]


def test_a_manager_that_takes_nothing_is_not_waited_for(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(manager.getsockname(), watched=True)
    for _ in range(10_000):  # its queue is full long before
        notifier.alive()
    assert 0 < len(told(manager)) < 10_000
    assert caplog.text.count("cannot notify the service manager") == 1


@pytest.mark.parametrize("address", ["/nowhere/n", "@nobody", "vsock:1:2", "x" * 200, "a\0b"])
def test_an_address_that_leads_nowhere_does_no_harm(address: str) -> None:
    notifier = Notifier(address, watched=True)
    for say in (notifier.opening, notifier.ready, notifier.alive, notifier.stopping):
        say()
