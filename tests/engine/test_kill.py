"""kill -9 in the middle of writing: whatever was acknowledged is there, in order, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from armin_engine import Armin
from engine.observe import log, messages, session_ids

WRITER = """
import json, os, random, sys
from armin_engine import Armin, Appended
from engine.observe import append, close, create

chance = random.Random(int(sys.argv[2]))
armin = Armin(sys.argv[1])
out = os.fdopen(1, "wb", buffering=0)
number = armin.position * 1000
while True:
    last = armin.apply([create()])[0].session.id
    group = []
    for _ in range(chance.choice([1, 1, 5, 40])):
        number += 1
        texts = [f"{number}.{part}" for part in range(chance.choice([1, 1, 3]))]
        group.append(append(chance.randint(max(1, last - 3), last), *texts))
    said = []
    for command, outcome in zip(group, armin.apply(group)):
        assert type(outcome) is Appended, outcome
        said.append([command.session_id, outcome.first_id, outcome.first_seq, outcome.first_at,
                     [message.content for message in command.messages]])
    out.write(json.dumps(said).encode() + b"\\n")
    if chance.random() < 0.1:
        armin.refresh_snapshot()
"""


def killed_after(path: Path, lines: int, seed: int) -> list[list]:
    """Runs a writer, kills it at some moment after so many acknowledged groups; returns what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        assert process.wait(timeout=30) == -signal.SIGKILL
    return [entry for line in said if line.endswith(b"\n") for entry in json.loads(line)]


@pytest.mark.parametrize("seed", range(4))
def test_every_acknowledged_message_survives_kill_in_order_and_once(path, seed):
    chance = random.Random(seed)
    acknowledged: list[list] = []
    for life in range(3):
        acknowledged += killed_after(path, chance.choice([1, 7, 60, 150]), seed * 10 + life)
        with Armin(path) as armin:
            assert armin.verify().equal
            check(armin, acknowledged)


def check(armin: Armin, acknowledged: list[list]) -> None:
    found = {session_id: messages(armin, session_id) for session_id in session_ids(armin)}
    everywhere = [message.content for one in found.values() for message in one]
    assert len(everywhere) == len(set(everywhere))
    at = {event.position: event for event in log(armin)}
    for session_id, first_id, first_seq, first_at, texts in acknowledged:
        stored = found[session_id][first_seq - 1 : first_seq - 1 + len(texts)]
        assert [message.content for message in stored] == texts
        assert [message.id for message in stored] == list(range(first_id, first_id + len(texts)))
        assert at[first_at].unpack()["message"]["id"] == first_id
    for one in found.values():
        assert [message.id for message in one] == sorted(message.id for message in one)
        assert [message.seq for message in one] == list(range(1, len(one) + 1))
