"""The campaign itself: twenty seeds hold, and a part taken out of the engine or the clients is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from armin.torture.crippled import NO_HEAL, NO_KEYS
from armin.torture.engine import Sabotage
from harness import wait_until

SEEDS = range(1, 21)
MINUTES = 0.06  # of breaking; starting and coming to rest are not in it
CAMPAIGN_S = 280  # at most; 10 on an idle machine
SEEDS_MAX = 5  # within which a sabotage is noticed
NOTICED_BY = {
    NO_KEYS: {
        "acknowledged writes are in the log once",
        "no write is there twice, in part, or though refused",
    },
    NO_HEAL: {"followers were given everything once"},
    "synchronous-normal": {"acknowledged writes are in the log once"},
    "emit-before-commit": {"nothing was announced that was not committed"},
}
pytestmark = pytest.mark.timeout(300)
SABOTAGES = [NO_KEYS, NO_HEAL, *Sabotage]

Report = dict[str, Any]


def command(seed: int, *options: str) -> list[str]:
    torture = [sys.executable, "-m", "armin.cli.main", "torture", "--seed", str(seed)]
    return [*torture, "--minutes", str(MINUTES), "--json", *options]


def campaign(seed: int, *options: str) -> tuple[int, Report | None, str]:
    done = subprocess.run(
        command(seed, *options), capture_output=True, text=True, timeout=CAMPAIGN_S, check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def noticed(sabotage: str) -> list[list[str]]:
    """The checks that spoke, for each seed up to the first at which the expected one did."""
    spoke = []
    for seed in range(1, SEEDS_MAX + 1):
        with tempfile.TemporaryDirectory(prefix="armin-kept-") as keep:
            code, report, errors = campaign(seed, "--sabotage", sabotage, "--keep", keep)
        assert report is not None, errors
        assert code == (0 if report["fine"] else 20)
        spoke.append(list(report["violations"]))
        if NOTICED_BY[sabotage] & set(spoke[-1]):
            break
    return spoke


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_doubled(seed: int) -> None:
    code, report, errors = campaign(seed)
    assert report is not None, errors
    assert report["violations"] == {}, (report["repeat"], report["evidence"], errors)
    assert code == 0
    assert report["evidence"] is None
    for what in ("acknowledged writes", "items followed", "effects handled", "facts seen on the live socket"):
        assert report["done"][what] > 0, report


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_part_taken_out_is_noticed(sabotage: str) -> None:
    spoke = noticed(sabotage)
    assert NOTICED_BY[sabotage] & set(spoke[-1]), spoke


def test_what_is_kept_holds_the_evidence(short_dir: Path) -> None:
    kept = short_dir / "kept"
    code, report, errors = campaign(1, "--keep", str(kept))
    assert report is not None, errors
    assert code == 0
    assert report["evidence"] == str(kept)
    assert (kept / "engine" / "armin.db").exists()
    assert list((kept / "evidence").glob("writers-*.jsonl"))


def test_evidence_is_not_mixed_with_other_files(short_dir: Path) -> None:
    (short_dir / "something").touch()
    code, _, errors = campaign(1, "--keep", str(short_dir))
    assert code == 2
    assert "not empty" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_campaign(short_dir: Path, number: signal.Signals) -> None:
    started = subprocess.Popen(
        command(3, "--keep", str(short_dir / "kept"), "--minutes", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(short_dir)},
    )
    evidence = short_dir / "kept" / "evidence"
    try:
        wait_until(lambda: bool(list(evidence.glob("followers-*.jsonl"))), what="followers at work")
        wait_until(lambda: len(mentioning(str(short_dir))) >= 4, what="all at work")
        started.send_signal(number)
        started.communicate(timeout=90)
    finally:
        started.kill()
        started.wait()
    if number is not signal.SIGKILL:
        assert started.returncode == 130
    wait_until(lambda: not mentioning(str(short_dir)), what="everybody gone")


def mentioning(text: str) -> list[int]:
    """Processes with this text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it ended meanwhile
    return found
