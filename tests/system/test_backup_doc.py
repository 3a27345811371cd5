"""The scripts of docs/backup.md, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import CommandLine
from harness import Engine

ROOT = Path(__file__).parents[2]
SCRIPTS = dict(
    re.findall(
        r"^```sh (\w+)\n(.*?)^```$",
        (ROOT / "docs" / "backup.md").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


def run(script: str, **places: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", SCRIPTS[script]],
        env=os.environ
        | {name: str(place) for name, place in places.items()}
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("sound", [True, False])
def test_the_drill_tells_a_sound_backup_from_another(engine: Engine, short_dir: Path, sound: bool) -> None:
    armin, backups = CommandLine(engine.directory), short_dir / "backups"
    backups.mkdir()
    armin.ok("new")
    armin.ok("append", "1", "user", "one")
    [made] = armin.json("backup", str(backups))
    armin.ok("append", "1", "user", "two")
    if not sound:
        path = Path(made["path"])
        path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    done = run("drill", DIR=engine.directory, BACKUPS=backups, SCRATCH=short_dir / "scratch")
    assert (done.returncode == 0) is sound, done
    assert not (short_dir / "scratch" / "armin.db").exists()


def test_what_a_restore_has_lost_is_brought_back(engine: Engine, short_dir: Path) -> None:
    armin, copy = CommandLine(engine.directory), str(short_dir / "b.db")
    armin.ok("new")
    armin.ok("append", "1", "user", "one")
    armin.ok("backup", copy)
    armin.ok("append", "1", "user", "lost")
    armin.ok("new", "--name", "lost, too")
    armin.ok("append", "2", "user", "the same")
    assert engine.stop() == 0
    assert armin.run("restore", copy, str(engine.directory), "--replace").code == 0
    engine.start()
    armin.ok("new", "--name", "of the new life")
    [replaced] = engine.directory.glob("armin.db.replaced-*")
    done = run("recover", DIR=engine.directory, REPLACED=replaced, SCRATCH=short_dir / "scratch")
    assert done.returncode == 0, done
    assert [message["content"] for message in armin.json("read", "1")] == ["one", "lost"]
    assert [message["content"] for message in armin.json("read", "lost, too")] == ["the same"]
    assert armin.ok("read", "of the new life") == ""
    assert not (short_dir / "scratch").exists()
