"""The daemon's own end."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import zmq

from armin_broker import daemon


class Stuck:
    """A context that never ends, as libzmq's now and then."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.released = threading.Event()

    def destroy(self, linger: int) -> None:
        self.asked.set()
        self.released.wait(60)


def test_sockets_that_never_close_do_not_keep_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(daemon, "CLOSE_MS", 50)
    stuck: Any = Stuck()
    with caplog.at_level(logging.WARNING):
        daemon._close(stuck, 0)
    assert stuck.asked.is_set()
    assert "did not close in time" in caplog.text
    stuck.released.set()


def test_sockets_that_close_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.bind("inproc://x")
    daemon._close(context, 0)
    assert socket.closed
    assert context.closed
    assert not caplog.records
