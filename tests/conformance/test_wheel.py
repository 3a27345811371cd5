"""An installed `armin` has the vectors with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from armin.conformance import cases
from conformance.bench_of import ENGINE_CASES, running_engine

ROOT = Path(__file__).parents[2]
DEADLINE_S = 100.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this source tree, built as pip builds it."""
    directory = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(directory),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("no package index can be reached, so no wheel can be built")
    assert done.returncode == 0, done.stderr
    (path,) = directory.glob("armin-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_vector_and_none_of_the_tests(wheel: zipfile.ZipFile) -> None:
    prefix = "armin/conformance/vectors/"
    shipped = {name.removeprefix(prefix) for name in wheel.namelist() if name.startswith(prefix)}
    assert shipped == {
        path.name for path in cases.default_directory().iterdir() if path.suffix in (".json", ".md")
    }
    assert not [name for name in wheel.namelist() if name.rpartition("/")[2].startswith("test_")]


def test_the_command_finds_them_where_it_is_installed(
    wheel: zipfile.ZipFile, tmp_path: Path, short_dir: Path
) -> None:
    wheel.extractall(tmp_path)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}  # in front of the source tree

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "armin.cli.main", "conformance", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=100, check=True
        )
        return done.stdout

    where = "import armin.conformance.cases as c; print(c.default_directory())"
    found = subprocess.run(
        [sys.executable, "-c", where], check=True, capture_output=True, text=True, env=environ, cwd=tmp_path
    )
    assert found.stdout.strip() == str(tmp_path / "armin" / "conformance" / "vectors")
    assert len(run("--list").splitlines()) == len(ENGINE_CASES)
    with running_engine(short_dir / "e"):
        assert "this engine conforms; 6 cases pass" in run(str(short_dir / "e"), "--only", "hello_ping")
