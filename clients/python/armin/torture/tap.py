"""Listens to the engine's own live and effects sockets, with no client in between, and writes down all."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

import zmq

from armin import replies
from armin.torture import facts
from armin.torture.evidence import EvidenceFile
from armin_broker.protocol import EFFECTS_SOCKET, FACT_TOPICS, LIVE_SOCKET

POLL_MS: Final = 100
END_S: Final = 60.0


class Tap:
    """A thread with a SUB and a PULL. What it misses while it connects is no matter: it proves no loss."""

    def __init__(self, sockets: Path, evidence: EvidenceFile) -> None:
        self._sockets = sockets
        self._evidence = evidence
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tap", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Take what is there, and end."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        live, effects = context.socket(zmq.SUB), context.socket(zmq.PULL)
        poller = zmq.Poller()
        for socket, name in ((live, LIVE_SOCKET), (effects, EFFECTS_SOCKET)):
            socket.linger = 0
            socket.rcvhwm = 0
            socket.connect(f"ipc://{self._sockets / name}")
            poller.register(socket, zmq.POLLIN)
        for topic in FACT_TOPICS:
            live.subscribe(topic)
        while (ready := poller.poll(POLL_MS)) or not self._end.is_set():
            for socket, _ in ready:
                frames = socket.recv_multipart()
                fact = facts.of_event(replies.decode_event(frames[-1]))
                self._evidence.write("announced" if socket is live else "emitted", fact=fact.row())
        live.close()
        effects.close()
        context.term()
