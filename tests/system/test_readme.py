"""Every command and snippet of the README, run in its order in one empty directory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Engine, free_ports
from node_client import CLIENT, built, node

ROOT = Path(__file__).parents[2]
PORT = "127.0.0.1:7450"  # in the documents
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str | None = None) -> list[tuple[str, str]]:
    """Fenced blocks, as (language, text)."""
    found = [(match[1], match[2]) for match in BLOCK.finditer((ROOT / document).read_text("utf-8"))]
    return [(kind, text) for kind, text in found if language in (None, kind)]


def script(parts: list[tuple[str, str]]) -> str:
    """One shell script of all blocks; it ends what it has started."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"]
    for number, (kind, text) in enumerate(parts):
        lines.append(f"echo '--- block {number}'")
        lines.append(text if kind == "sh" else f"python - <<'END_OF_SNIPPET'\n{text}END_OF_SNIPPET")
    return "\n".join(lines)


def run(text: str, directory: Path, seconds: float = 100) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ARMIN_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", text],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.mark.timeout(300)
def test_every_snippet_of_the_readme_runs(short_dir: Path) -> None:
    make, *rest = blocks("README.md")
    assert "make demo" in make[1]
    (short_dir / "data").symlink_to(ROOT / "data")
    everything = script(rest)
    assert PORT in everything
    result = run(everything.replace(PORT, f"127.0.0.1:{free_ports()}"), short_dir, 280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "Hi, how can I help?" in result.stdout
    assert "100 note " in result.stdout
    assert "session 2 is closed" in result.stdout or "is closed" in result.stdout
    assert "['session_created', 'message_appended']" in result.stdout
    assert (short_dir / "conversations.jsonl").stat().st_size > 0
    assert len((short_dir / "backup.jsonl").read_text("utf-8").splitlines()) > 100


def test_the_node_snippet_of_the_readme_runs(engine: Engine) -> None:
    (snippet,) = re.findall(
        r"^```js\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    built("dist/index.js")
    done = subprocess.run(
        [node(), "--input-type=module"],
        cwd=CLIENT,  # within the package its own name is found
        input=snippet.replace('"./chat"', repr(str(engine.directory))),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 user hello from Node\n"


def test_the_two_commands_of_the_readme_are_targets() -> None:
    (make, *_) = blocks("README.md", "sh")
    targets = re.findall(r"^make (\w+)", make[1], re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        plan = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
        )
        assert plan.returncode == 0, plan.stderr


@pytest.mark.parametrize("number", range(len(blocks("docs/protocol.md", "python"))))
def test_every_example_of_the_protocol_runs(engine: Engine, number: int) -> None:
    _, text = blocks("docs/protocol.md", "python")[number]
    example = text.replace("ipc://./chat/commands.sock", engine.endpoint("commands"))
    assert example != text
    result = run(f"python - <<'END_OF_SNIPPET'\n{example}END_OF_SNIPPET", engine.directory)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "document",
    ["README.md", "docs/protocol.md", "docs/guarantees.md", "docs/operations.md", "clients/node/README.md"],
)
def test_links_and_named_tests_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    places = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`(tests/[\w/.*]+)`", text)
    for place in places:
        base = ROOT if place.startswith("tests/") else (ROOT / document).parent
        assert list(base.glob(place)), place
