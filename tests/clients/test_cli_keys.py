"""`armin keys`, and coming in with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import CommandLine
from harness import Engine, wait_until


@pytest.fixture
def armin(short_dir: Path) -> CommandLine:
    return CommandLine(short_dir / "e")


def test_a_new_key_prints_its_file_and_is_listed(armin: CommandLine, short_dir: Path) -> None:
    made = armin.run("keys", "new", "alice", "--role", "writer")
    assert (made.code, made.out) == (0, f"{short_dir}/e/keys/alice.key\n")
    assert "ARMIN_KEY" in made.err
    armin.run("keys", "new", "bob", "--role", "reader", "--out", str(short_dir / "bob.key"))
    assert (short_dir / "bob.key").exists()
    listed = armin.json("keys", "list")
    assert [(key["name"], key["role"]) for key in listed] == [("alice", "writer"), ("bob", "reader")]
    [line, _] = armin.ok("keys", "list").splitlines()
    assert line.split()[-2:] == ["writer", "alice"]


def test_json_names_the_file(armin: CommandLine) -> None:
    result = armin.run("keys", "new", "a", "--role", "admin", "--json")
    made = json.loads(result.out)
    assert json.loads(Path(made["file"]).read_text())["public"] == made["public"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("new", "No Name", "--role", "reader"), 6, "cannot be a key's name"),
        (("new", "a"), 2, "--role"),
        (("new", "a", "--role", "god"), 2, "god"),
        (("revoke", "nobody"), 6, "there is no key nobody"),
    ],
)
def test_what_cannot_be_done_is_said(
    armin: CommandLine, arguments: tuple[str, ...], code: int, said: str
) -> None:
    result = armin.run("keys", *arguments)
    assert result.code == code
    assert said in result.err


def test_keys_need_the_directory(short_dir: Path) -> None:
    assert "--dir" in CommandLine().run("keys", "list").err
    assert "--dir" in CommandLine().run("--url", "tcp://127.0.0.1:1", "keys", "list").err


def test_a_name_that_is_taken_and_a_file_that_exists_are_conflicts(
    armin: CommandLine, short_dir: Path
) -> None:
    armin.run("keys", "new", "a", "--role", "reader")
    assert armin.run("keys", "new", "a", "--role", "reader").code == 6
    (short_dir / "there").touch()
    result = armin.run("keys", "new", "b", "--role", "reader", "--out", str(short_dir / "there"))
    assert (result.code, f"{short_dir}/there: it is there already" in result.err) == (18, True)


def test_a_broken_key_is_told_of_and_the_others_are_listed(armin: CommandLine, short_dir: Path) -> None:
    armin.run("keys", "new", "a", "--role", "reader")
    armin.run("keys", "new", "b", "--role", "reader")
    (short_dir / "e" / "keys" / "a.json").write_text("{")
    result = armin.run("keys", "list", "--json")
    assert (result.code, [json.loads(line)["name"] for line in result.lines]) == (1, ["b"])
    assert "a.json" in result.err


@pytest.fixture
def url(armin: CommandLine, short_dir: Path) -> str:
    """An engine on tcp with a writer's and an admin's key."""
    for role in ("writer", "admin"):
        armin.run("keys", "new", role, "--role", role)
    engine = Engine(short_dir / "e", "--tcp", "127.0.0.1:0").start()
    with engine.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    yield f"tcp://127.0.0.1:{port}"
    engine.stop()


def test_a_key_opens_the_door_as_far_as_its_role_goes(armin: CommandLine, short_dir: Path, url: str) -> None:
    keys = short_dir / "e" / "keys"
    writer = CommandLine(ARMIN_URL=url, ARMIN_KEY=str(keys / "writer.key"))
    assert writer.ok("new") == "1\n"
    refused = writer.run("verify")
    assert refused.code == 26
    assert "verify needs a key with the role admin" in refused.err
    assert CommandLine().run("--url", url, "--key", str(keys / "admin.key"), "verify").code == 0


def test_without_a_key_it_says_at_once_what_is_missing(url: str) -> None:
    result = CommandLine(ARMIN_URL=url).run("--timeout", "1000", "sessions")
    assert result.code == 26
    assert "asks for a key" in result.err


def test_a_key_for_an_engine_without_keys_is_an_error(short_dir: Path, armin: CommandLine) -> None:
    key = armin.run("keys", "new", "a", "--role", "reader").out.strip()
    engine = Engine(short_dir / "f", "--tcp", "127.0.0.1:0").start()
    with engine.peer() as peer:
        port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
    result = CommandLine().run("--url", f"tcp://127.0.0.1:{port}", "--key", key, "sessions")
    engine.stop()
    assert (result.code, "knows no keys" in result.err) == (26, True)


def test_a_revoked_key_is_told_so(armin: CommandLine, short_dir: Path, url: str) -> None:
    key = short_dir / "copy.key"
    key.write_bytes((short_dir / "e" / "keys" / "writer.key").read_bytes())
    key.chmod(0o600)
    writer = CommandLine(ARMIN_URL=url, ARMIN_KEY=str(key))
    assert writer.ok("new") == "1\n"
    armin.ok("keys", "revoke", "writer")
    wait_until(lambda: writer.run("sessions").code != 0)
    refused = writer.run("sessions")
    assert refused.code == 26
    assert "was revoked" in refused.err
