"""A lossy ZeroMQ proxy between clients and an engine's commands socket, in a thread of its own."""

from __future__ import annotations

import random
import threading
from typing import Self

import zmq

POLL_MS = 20  # how soon it sees that it is to end


class LossyProxy:
    """Forwards commands, drops replies, and now and then cuts every connection.

    drop: chance that a reply is lost. cut: chance, for each reply, that the connections are cut: what is
    under way in both directions is lost, and the clients connect anew.
    """

    def __init__(self, listen: str, engine: str, *, drop: float, cut: float, seed: int) -> None:
        self.dropped = self.cuts = 0
        self._listen, self._engine = listen, engine
        self._drop, self._cut = drop, cut
        self._random = random.Random(seed)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lossy proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context[zmq.Socket[bytes]]() as context:
            while not self._ending.is_set():
                with context.socket(zmq.ROUTER) as front, context.socket(zmq.DEALER) as back:
                    front.setsockopt(zmq.LINGER, 0)
                    back.setsockopt(zmq.LINGER, 0)
                    front.bind(self._listen)
                    back.connect(self._engine)
                    self._forward(front, back)

    def _forward(self, front: zmq.Socket[bytes], back: zmq.Socket[bytes]) -> None:
        """Until the connections are to be cut."""
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(back, zmq.POLLIN)
        while not self._ending.is_set():
            ready = dict(poller.poll(POLL_MS))
            if front in ready:
                back.send_multipart(front.recv_multipart())
            if back in ready:
                reply = back.recv_multipart()
                if self._random.random() < self._cut:
                    self.cuts += 1
                    return
                if self._random.random() < self._drop:
                    self.dropped += 1
                else:
                    front.send_multipart(reply)
