"""The drill of docs/backup.md, run as it stands."""

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
DRILL = re.compile(r"^```sh drill\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("sound", [True, False])
def test_the_drill_tells_a_sound_backup_from_another(engine: Engine, short_dir: Path, sound: bool) -> None:
    [script] = DRILL.findall((ROOT / "docs" / "backup.md").read_text("utf-8"))
    armin, backups = CommandLine(engine.directory), short_dir / "backups"
    backups.mkdir()
    armin.ok("new")
    armin.ok("append", "1", "user", "one")
    [made] = armin.json("backup", str(backups))
    armin.ok("append", "1", "user", "two")
    if not sound:
        path = Path(made["path"])
        path.write_bytes(path.read_bytes().replace(b"one", b"two"))
    places = {"DIR": engine.directory, "BACKUPS": backups, "SCRATCH": short_dir / "scratch"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=os.environ
        | {name: str(place) for name, place in places.items()}
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) is sound, done
    assert not (short_dir / "scratch" / "armin.db").exists()
