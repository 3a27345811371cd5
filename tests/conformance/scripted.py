"""A ROUTER that answers as a client vector says: the n-th command with the n-th answer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import msgpack
import zmq

from armin.conformance.cases import ClientCase, Json
from armin.conformance.matching import Difference, differences
from armin.conformance.values import Scope, build, encode

POLL_MS = 10  # how soon it sees that it is to end
SILENCE = "silence"


class Scripted:
    """The engine of one client case, at the commands socket of a directory. `got`: the commands that came."""

    def __init__(self, directory: Path, case: ClientCase) -> None:
        self.got: list[dict[str, Any]] = []
        self._endpoint = f"ipc://{directory}/commands.sock"
        self._answers = case.answers
        self._ending = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted engine")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._bound.wait(60)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(self._endpoint)
            self._bound.set()
            while not self._ending.is_set():
                if router.poll(POLL_MS):
                    self._take(router, router.recv_multipart())

    def _take(self, router: zmq.Socket[bytes], frames: list[bytes]) -> None:
        peer, *envelope, command = frames
        answer = self._answers[len(self.got)] if len(self.got) < len(self._answers) else SILENCE
        self.got.append(msgpack.unpackb(command))
        for each in answer if isinstance(answer, list) else [answer]:
            if each != SILENCE:
                router.send_multipart([peer, *_frames(each, envelope)])


def _frames(answer: dict[str, Json], envelope: list[bytes]) -> list[bytes]:
    match answer:
        case {"raw": digits}:
            return [*envelope, bytes.fromhex(digits)]
        case {"envelope": frames, "reply": reply}:
            return [*map(bytes.fromhex, frames), encode(build(reply, nothing_known()))]
    return [*envelope, encode(build(answer, nothing_known()))]


def nothing_known() -> Scope:
    """Where no engine has named anything."""
    return Scope(limits={}, unique="")


def sending_errors(case: ClientCase, got: list[dict[str, Any]]) -> list[Difference]:
    """Where the client sent something else than it must have. Into silence it may send the last one again."""
    sent = got[: len(case.sent)] if case.answers[-1] == SILENCE else got
    return list(differences(list(case.sent), sent, nothing_known(), "sent"))
