"""The pictures of the terminal views: drawn by a command, shown in the docs, of no machine in particular."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
NAMES = ("status", "top")
SVG = "{http://www.w3.org/2000/svg}"


def words_of(picture: Path) -> str:
    """All that can be read in it."""
    texts = ET.parse(picture).getroot().iter(f"{SVG}text")
    return "\n".join(text.text or "" for text in texts).replace("\xa0", " ")


def check(picture: Path) -> str:
    words = words_of(picture)
    assert set(re.findall(r"/[a-z]+/[a-z]+", words)) <= {"/srv/chat"}, "no paths of this machine"
    assert socket.gethostname() not in words
    return words


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_are_shown_and_of_no_machine(name: str) -> None:
    assert "serving" in check(PICTURES / f"{name}.svg")
    assert f"](pictures/{name}.svg)" in (ROOT / "docs" / "operations.md").read_text("utf-8")


def test_the_command_draws_them(short_dir: Path) -> None:
    assert "docs/pictures/draw.py" in (ROOT / "Makefile").read_text("utf-8")
    command = [sys.executable, str(PICTURES / "draw.py"), "3", str(short_dir)]
    subprocess.run(command, check=True, timeout=100, capture_output=True)
    assert sorted(each.stem for each in short_dir.glob("*.svg")) == sorted(NAMES)
    top, status = check(short_dir / "top.svg"), check(short_dir / "status.svg")
    assert "worker group" in top
    assert "summaries" in top
    assert "ipc /srv/chat" in status
    assert str(short_dir) not in top + status
