"""Key files as clients read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from armin import TargetError, connect
from armin.credentials import load
from armin.target import TcpTarget, find_target
from armin_broker.keyring import Keyring


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Keyring(tmp_path / "keys").new("alice", "writer")[1]


def test_a_key_file_becomes_credentials_that_hide_their_secret(file: Path) -> None:
    credentials = load(file)
    fields = json.loads(file.read_text())
    assert (credentials.name, credentials.role) == ("alice", "writer")
    assert credentials.secret.decode() == fields["secret"]
    assert credentials.server.decode() == fields["server"]
    assert fields["secret"] not in repr(credentials)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(TargetError, match="chmod go=") as raised:
        load(file)
    assert raised.value.field == "key"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "7",
        "[" * 3000,
        "x" * 5000,
        '{"armin_key": 2}',
        '{"armin_key": 1}',
        '{"armin_key": 1, "public": 7, "secret": 7, "server": 7}',
    ],
)
def test_what_is_no_key_file_is_refused_without_being_quoted(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(TargetError) as raised:
        load(file)
    assert str(file) in raised.value.message
    assert "xxx" not in raised.value.message


@pytest.mark.parametrize("name", ["public", "secret", "server"])
@pytest.mark.parametrize("value", ["short", "é" * 40, " " * 40, "\\" * 40, "#" * 40])
def test_a_field_that_is_no_key_is_named(file: Path, name: str, value: str) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(TargetError, match=f"in its field {name}"):
        load(file)


def test_a_file_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        connect("tcp://127.0.0.1:1", key=tmp_path / "none")
    with pytest.raises(TargetError, match="cannot be read"):
        load("a\0b")


def test_the_environment_may_name_the_key(file: Path) -> None:
    target = find_target("tcp://h:7", {"ARMIN_KEY": str(file)})
    assert isinstance(target, TcpTarget)
    assert target.credentials == load(file)
    assert find_target("tcp://h:7", {"ARMIN_KEY": ""}) == TcpTarget("h", 7)


def test_a_directory_needs_no_key(file: Path, tmp_path: Path) -> None:
    assert find_target(tmp_path, {"ARMIN_KEY": "/nowhere"}).credentials is None
    with pytest.raises(TargetError, match="need none"):
        find_target(tmp_path, {}, file)
