"""Python and Node write, follow and work on one engine while it is broken: nothing is lost or doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from armin.torture.evidence import GUEST, all_records, lives, records
from armin.torture.process import FOLLOWERS, WORKERS, WRITERS
from armin.torture.testimony import Outcome, heard
from node_client import node, program

SEEDS = range(1, 5)
MINUTES = 0.1
CAMPAIGN_S = 280  # at most; 15 on an idle machine


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_doubled_in_either_language(short_dir: Path, seed: int) -> None:
    kept = short_dir / "kept"
    guests = f"{node()} {program('guests/main')}"
    torture = [sys.executable, "-m", "armin.cli.main", "torture", "--seed", str(seed)]
    torture += ["--minutes", str(MINUTES), "--json", "--keep", str(kept), "--guests", guests]
    done = subprocess.run(torture, capture_output=True, text=True, timeout=CAMPAIGN_S, check=False)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    assert report["violations"] == {}, (report["repeat"], report["violations"])
    assert done.returncode == 0
    evidence = kept / "evidence"
    names = {write.name for write in heard(evidence).writes.values() if write.outcome is Outcome.ACKNOWLEDGED}
    ours = {name for name in names if name.startswith("w")}
    theirs = {name for name in names if name.startswith("g")}
    assert ours
    assert theirs
    assert ours | theirs == names
    for role in (FOLLOWERS, GUEST + FOLLOWERS):
        assert_followed_both(evidence, role)
    for role in (WORKERS, GUEST + WORKERS):
        assert any(record["what"] == "handled" for path in lives(evidence, role) for record in records(path))


def assert_followed_both(evidence: Path, role: str) -> None:
    """What followers of one language were given was written in both."""
    facts = [record["fact"] for path in lives(evidence, role) for record in records(path) if "fact" in record]
    writers = {tag[0] for *_, tag, _ in facts if tag}
    assert writers == {"w", "g"}


def test_what_guests_leave_is_evidence(short_dir: Path) -> None:
    for role in (WRITERS, GUEST + WRITERS):
        (short_dir / f"{role}-1.jsonl").write_text('{"what":"finished","at":1}\n')
    assert [life for life, _ in all_records(short_dir, WRITERS)] == ["writers-1", "guest-writers-1"]


@pytest.mark.parametrize(
    ("command", "word", "code"),
    [("/nowhere/to/be/found", "/nowhere/to/be/found", 21), ("'", "is no command", 2)],
)
def test_guests_that_cannot_run_are_named(short_dir: Path, command: str, word: str, code: int) -> None:
    torture = [
        sys.executable,
        "-m",
        "armin.cli.main",
        "torture",
        "--seed",
        "1",
        "--keep",
        str(short_dir / "kept"),
    ]
    done = subprocess.run(
        [*torture, "--guests", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert word in done.stderr
    assert "Traceback" not in done.stderr
