"""`armin conformance`: what it plays, what it says, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from armin.conformance import cases
from command_line import CommandLine, parsed
from harness import Engine, Peer

ENGINE_CASES = cases.load(cases.default_directory()).engine


@pytest.fixture
def line(engine: Engine) -> CommandLine:
    return CommandLine(engine.directory)


@pytest.fixture
def nowhere() -> CommandLine:
    return CommandLine()


def wrong(directory: Path, **step: Any) -> Path:
    """Vectors that no engine passes."""
    good = {"send": {"op": "ping"}, "expect": {"ok": True}}
    case = {"name": "a_case", "why": "It cannot be.", "steps": [good, {**good, **step}]}
    (directory / "wrong.json").write_text(json.dumps({"about": "a", "cases": [case]}), "utf-8")
    return directory


def test_the_engine_conforms(line: CommandLine) -> None:
    out = line.ok("conformance")
    *rows, verdict = out.splitlines()
    files = list(dict.fromkeys(case.file for case in ENGINE_CASES))
    assert [row.split()[0] for row in rows[: len(files)]] == files
    reasons = [row for row in rows if row.startswith("not played, ")]
    assert any("needs somebody who can kill the engine" in reason for reason in reasons)
    assert any("--slow plays it" in reason for reason in reasons)
    unplayed = sum(bool(case.needs) or case.slow for case in ENGINE_CASES)
    passed = len(ENGINE_CASES) - unplayed
    assert verdict == f"armin conformance: this engine conforms; {passed} cases pass, {unplayed} not played"


def test_what_it_has_made_is_dropped_but_for_sessions(line: CommandLine, peer: Peer) -> None:
    peer.ask("create_group", group="mine", start="now")
    line.ok("conformance", "--only", "groups", "--only", "dead_letters")
    assert [group["group"] for group in peer.ask("groups")["groups"]] == ["mine"]
    assert peer.ask("stats")["sessions"] > 0


def test_the_engine_may_be_named_as_an_argument(engine: Engine, nowhere: CommandLine) -> None:
    for name in (str(engine.directory), f"ipc://{engine.directory}"):
        assert "this engine conforms" in nowhere.ok("conformance", name, "--only", "hello_ping")


def test_a_failure_is_one_line_with_its_place(line: CommandLine, tmp_path: Path) -> None:
    directory = wrong(tmp_path, send={"op": "append", "session_id": 1, "role": "user", "content": "x"})
    result = line.run("conformance", "--vectors", str(directory))
    assert (result.code, result.err) == (1, "")
    assert "FAILED wrong/a_case: step 2, $.ok: expected True, got False" in result.lines
    assert result.lines[-1].startswith(
        "armin conformance: 1 cases fail: this engine does not conform; 0 cases"
    )


def test_what_comes_from_the_engine_cannot_steer_the_terminal(line: CommandLine, tmp_path: Path) -> None:
    directory = wrong(tmp_path, expect={"ok": "\x1b[31m"})
    result = line.run("conformance", "--vectors", str(directory))
    assert result.code == 1
    assert "\x1b" not in result.out


def test_json_has_one_object_a_case(line: CommandLine, tmp_path: Path) -> None:
    records = line.json("conformance", "--only", "hello_ping", "--only", "durability")
    assert [record["verdict"] for record in records if record["file"] == "hello_ping"] == ["passed"] * 6
    unplayed = [record for record in records if record["file"] == "durability"]
    assert {record["verdict"] for record in unplayed} == {"not played"}
    assert all(record["reason"] and record["failures"] == [] for record in unplayed)
    result = line.run("conformance", "--json", "--vectors", str(wrong(tmp_path, expect={"ok": False})))
    assert result.code == 1
    (record,) = parsed(result.out)
    assert record["verdict"] == "failed"
    assert record["failures"] == [{"step": 2, "path": "$.ok", "expected": "False", "got": "True"}]


def test_a_table_on_a_terminal(line: CommandLine) -> None:
    with line.terminal("conformance", "--only", "hello_ping") as terminal:
        result = terminal.end()
    assert result.code == 0
    head, row, verdict = (text for text in result.out.splitlines() if text.strip())
    assert "passed" in head
    assert "not played" in head
    assert "hello_ping" in row
    assert "this engine conforms" in verdict


def test_cases_are_listed_without_an_engine(nowhere: CommandLine) -> None:
    listed = parsed(nowhere.ok("conformance", "--list", "--json"))
    assert [f"{case['file']}/{case['case']}" for case in listed] == [case.id for case in ENGINE_CASES]
    (row,) = nowhere.ok("conformance", "--list", "--only", "limits/polls").splitlines()
    assert row.split()[:2] == ["limits/polls", "slow"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--only", "nothing*"), 2, "no case is called nothing*; --list shows them"),
        (("--vectors", "{tmp}"), 2, "there are no vectors in {tmp}"),
        (("--vectors", "{tmp}/none"), 2, "does not exist"),
        (("{tmp}/none", "--only", "hello_ping"), 3, "no such directory"),
        (("--only", "hello_ping"), 2, "no engine is named"),
        (("http://x", "--only", "hello_ping"), 2, "is neither a directory nor"),
    ],
)
def test_what_cannot_be_done_is_said(
    nowhere: CommandLine, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = nowhere.run("conformance", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.code == code, result
    assert message.format(tmp=tmp_path) in result.err
    assert result.out == ""


def test_something_else_that_answers_is_no_engine(nowhere: CommandLine, short_dir: Path) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(f"ipc://{short_dir}/commands.sock")
        with nowhere.start("conformance", str(short_dir), "--only", "hello_ping") as running:
            *envelope, _ = router.recv_multipart()
            router.send_multipart([*envelope, b"\xc0"])
            assert running.process.wait(90) == 70
            assert "the reply is a NoneType, not a map" in running.errors()


def test_ctrl_c_drops_the_groups_it_has_made(engine: Engine, line: CommandLine, peer: Peer) -> None:
    import signal

    with line.start("conformance", "--only", "leases/an_extended_lease_holds") as running:
        while not peer.ask("groups")["groups"]:
            assert running.process.poll() is None
        assert running.signal(signal.SIGINT) == 130
    assert peer.ask("groups")["groups"] == []


def test_nobody_else_pays_for_it() -> None:
    """Neither those who import armin nor the other commands load the kit."""
    script = (
        "import sys, armin, armin.cli.main\n"
        "armin.cli.main.cli.get_command(None, 'read')\n"
        "assert not [name for name in sys.modules if name.startswith('armin.conformance')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
