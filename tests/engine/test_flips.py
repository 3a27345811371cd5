"""One flipped bit anywhere in what a row says: verify names that row, or the file is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from armin_engine import Armin, OpenError
from armin_engine.offline import Checked, verify_file
from armin_engine.stored import RowName
from engine.cells import cells
from engine.observe import close, create

ROLES = ("user", "assistant", "system", "tool")


class Place(NamedTuple):
    """Bytes of one value, and the row of the log that they belong to."""

    what: str
    offsets: tuple[int, ...]
    row: RowName


class Template(NamedTuple):
    """A closed database and the places in it."""

    data: bytes
    places: list[Place]


def write(path: Path) -> dict[str, dict[int, RowName]]:
    """A small life: sessions with names and metas, messages of all kinds, keys. Gives the row of each id."""
    chance = random.Random(1)
    sessions, messages = {}, {}
    with Armin(path) as armin:
        for session_id in range(1, 9):
            meta = {"owner": session_id} if session_id % 2 else None
            armin.create_session(f"name {session_id}", meta, key=f"c{session_id}")
            sessions[session_id] = RowName(armin.position, session_id)
        for message_id in range(1, 121):
            session_id = chance.randint(1, 7)
            content = "" if message_id == 50 else "ä text " * chance.choice((1, 3, 40, 2000))
            meta = {"n": [message_id, "ü"]} if message_id % 3 == 0 else None
            role = ROLES[message_id % 4]
            done = armin.append(session_id, role, content, meta, key=f"k{message_id}")
            messages[message_id] = RowName(armin.position, session_id, message_id, done.first_seq)
        armin.apply([close(3), create("last")])
    return {"sessions": sessions, "messages": messages}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    path = tmp_path_factory.mktemp("template") / "armin.db"
    rows = write(path)
    return Template(path.read_bytes(), list(places(path, rows)))


def places(path: Path, rows: dict[str, dict[int, RowName]]) -> Iterator[Place]:
    columns = (
        ("messages", 2, "role", "messages"),
        ("messages", 3, "content", "messages"),
        ("messages", 4, "time", "messages"),
        ("message_meta", 1, "meta", "messages"),
        ("sessions", 2, "session's time", "sessions"),
        ("session_meta", 1, "session's meta", "sessions"),
        ("session_names", 0, "name", "sessions"),
    )
    for table, column, what, of in columns:
        for cell in cells(path, table):
            if cell.rowid in rows[of]:
                yield Place(what, cell.columns[column], rows[of][cell.rowid])


def flipped(template: Template, offset: int, bit: int, path: Path) -> Checked | None:
    """What offline verify says of the file with this bit flipped; None if it is refused."""
    damaged = bytearray(template.data)
    damaged[offset] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        return verify_file(path)
    except OpenError:
        return None
    finally:
        assert path.read_bytes() == damaged


def test_the_file_is_whole_before_it_is_damaged(template: Template, path: Path) -> None:
    path.write_bytes(template.data)
    checked = verify_file(path)
    assert checked.report.differences == ()
    assert {place.what for place in template.places} >= {"role", "content", "time", "meta"}


@pytest.mark.parametrize("what", ["role", "content", "time", "meta"])
def test_a_flipped_bit_of_a_message_is_named_or_the_file_refused(
    template: Template, path: Path, what: str
) -> None:
    chance = random.Random(f"flip {what}")
    candidates = [place for place in template.places if place.what == what]
    named = 0
    for _ in range(60):
        place = chance.choice(candidates)
        checked = flipped(template, chance.choice(place.offsets), chance.randrange(8), path)
        if checked is not None:
            assert checked.report.first_bad == place.row, checked.report.differences
            assert checked.report.differences[0].startswith(f"{place.row}: ")
            named += 1
    assert named > 50  # refused only where the damage reaches what SQLite looks at first


@pytest.mark.parametrize("what", ["session's time", "session's meta", "name"])
def test_a_flipped_bit_of_a_session_is_named_or_the_file_refused(
    template: Template, path: Path, what: str
) -> None:
    chance = random.Random(f"flip {what}")
    for place in (place for place in template.places if place.what == what):
        checked = flipped(template, chance.choice(place.offsets), chance.randrange(8), path)
        if checked is not None:
            assert checked.report.first_bad == place.row, checked.report.differences


def test_every_flip_of_a_closed_flag_names_its_session(template: Template, path: Path) -> None:
    path.write_bytes(template.data)
    for cell in cells(path, "sessions"):
        for bit in range(8):
            checked = flipped(template, cell.columns[1][0], bit, path)
            if checked is not None:
                assert not checked.report.equal
                assert any(f"session {cell.rowid}" in text for text in checked.report.differences)


def test_a_flipped_bit_of_a_key_s_row_is_found(template: Template, path: Path) -> None:
    """Of the key itself it is not: nothing else says how it was spelt."""
    chance = random.Random(5)
    path.write_bytes(template.data)
    for cell in cells(path, "append_keys"):
        column = chance.randrange(1, 5)
        checked = flipped(template, chance.choice(cell.columns[column]), chance.randrange(8), path)
        if checked is not None:
            assert not checked.report.equal, (column, cell)


def test_a_flipped_bit_of_the_log_is_found(template: Template, path: Path) -> None:
    chance = random.Random(6)
    path.write_bytes(template.data)
    for cell in cells(path, "log"):
        offsets = [offset for column in cell.columns[1:] for offset in column]
        checked = flipped(template, chance.choice(offsets), chance.randrange(8), path)
        if checked is not None:
            bad = checked.report.first_bad
            assert bad is not None
            assert bad.position == cell.rowid
