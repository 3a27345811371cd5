"""What there is when all has come to rest: asked of the engine, then read from the file without it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from armin.client import Client
from armin.results import DeadLetter
from armin.torture import facts
from armin.torture.facts import Fact
from armin.torture.testimony import Rest
from armin_broker.protocol import DATABASE_FILE

PAGE: Final = 1000
VERIFY_S: Final = 600.0


def ask_engine(client: Client, rest: Rest) -> None:
    """Everything that the engine tells: its log, its sessions, and what it says of itself."""
    rest.engine = [_whole(client, facts.of_event(event)) for event in client.events()]
    more, last = True, 0
    while more:
        page = client.sessions(after=last, limit=PAGE)
        rest.sessions |= {session.id: (session.closed, session.seq) for session in page.sessions}
        more, last = page.more, max(rest.sessions, default=0)
    report = client.verify()
    if not report.equal:
        rest.faults += [f"verify of the running engine: {text}" for text in report.differences]


def ask_groups(client: Client, groups: Sequence[str], rest: Rest) -> None:
    """How the worker groups stand, and what they gave up."""
    for group in groups:
        [stands] = client.groups(group)
        rest.taken[group] = stands.cursor
        dead: list[DeadLetter] = []
        more = True
        while more:
            page = client.dead_letters(group, after=dead[-1].position if dead else None, limit=PAGE)
            dead += page.dead_letters
            more = page.more
        rest.dead[group] = {letter.position for letter in dead}
        if len(dead) != stands.dead:
            rest.faults.append(f"group {group} counts {stands.dead} dead letters and lists {len(dead)}")


def _whole(client: Client, fact: Fact) -> Fact:
    """A fact with what was elided from its event."""
    if fact.digest is not None or not fact.message_id:
        return fact
    page = client.read(fact.session_id, after=fact.seq - 1, limit=1)
    read = [facts.of_message(fact.position, message) for message in page.messages]
    return read[0] if read else replace(fact, digest="it cannot be read")


def read_file(directory: Path, rest: Rest) -> None:
    """Everything that the file holds; no engine runs on it any more."""
    path = directory / DATABASE_FILE
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rest.file = facts.of_file(connection)
        rest.file_sessions = {
            session_id: bool(closed)
            for session_id, closed in connection.execute("SELECT id, closed FROM sessions")
        }
        rest.keys = connection.execute("SELECT key, session_id, position, count FROM append_keys").fetchall()
        stray = "SELECT count(*) FROM messages WHERE id NOT IN (SELECT message_id FROM log WHERE kind = 2)"
        _expect(rest, "messages that are not in the log", connection.execute(stray).fetchone(), (0,))
        _expect(rest, "integrity_check", connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        _expect(rest, "foreign_key_check", connection.execute("PRAGMA foreign_key_check").fetchall(), [])
    rest.faults += _verify(path)


def _expect(rest: Rest, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        rest.faults.append(f"{what} of the file: {found}")


def _verify(path: Path) -> list[str]:
    """What `armin verify FILE` finds."""
    command = [sys.executable, "-m", "armin.cli.main", "verify", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=VERIFY_S, check=False)
    if done.returncode == 0 and json.loads(done.stdout)["equal"]:
        return []
    return [f"armin verify of the file exits with {done.returncode}: {done.stdout} {done.stderr}"]
