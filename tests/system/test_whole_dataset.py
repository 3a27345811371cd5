"""The whole chitchat data set: 258,145 real messages through the command line, in bounded memory."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Engine, Peer

RSS_MAX = 160 << 20  # the file is 40 MB of JSON, four times that as Python objects


@pytest.fixture
def dataset() -> Path:
    specification = importlib.util.find_spec("chitchat_dataset")
    assert specification is not None, "the dev extra installs it"
    assert specification.origin is not None
    return Path(specification.origin).with_name("dataset.json")


def peak_rss(pid: int) -> int:
    """Peak resident memory so far, in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
        return 0 if match is None else int(match[1]) << 10
    return 0


@pytest.mark.timeout(300)
def test_all_of_it_is_imported_with_its_rate_in_bounded_memory(
    engine: Engine, peer: Peer, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "armin.cli.main", "--dir", engine.directory, "import", dataset],
            stdout=stdout,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, peak_rss(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    said = out.read_text("utf-8")
    assert process.returncode == 0, said
    assert said.startswith("7,168 conversations, 258,145 messages added, 0 were there; ")
    assert re.search(r"[\d,]+ messages/s$", said.strip())
    assert 10 << 20 < peak < RSS_MAX
    stats = peer.ask("stats")
    assert (stats["sessions"], stats["messages"], stats["position"]) == (7_168, 258_145, 265_313)
    assert engine.rss() < 400 << 20
