"""The files of keys: whole, private, one for each name."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import zmq

from armin_broker.keyring import KeyRefused, Keyring, KeysInvalid


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "e" / "keys")


def names(keyring: Keyring) -> list[str]:
    return sorted(key.name for key in keyring.clients()[0])


def test_a_new_key_is_known_and_its_file_connects(keyring: Keyring) -> None:
    made, file = keyring.new("alice", "writer")
    ([known], problems) = keyring.clients()
    assert (known, problems) == (made, [])
    assert (known.sender.name, known.sender.role) == ("alice", "writer")
    handed = json.loads(file.read_text())
    assert zmq.curve_public(handed["secret"].encode()).decode() == handed["public"] == known.public
    assert handed["server"] == keyring.server().public.decode()
    assert {name: handed[name] for name in ("armin_key", "name", "role")} == {
        "armin_key": 1,
        "name": "alice",
        "role": "writer",
    }


def test_the_servers_pair_is_made_once(keyring: Keyring) -> None:
    assert not keyring.exists()
    keyring.new("a", "reader")
    server = keyring.server()
    keyring.new("b", "reader")
    assert keyring.server() == server


def test_everything_is_its_owners_alone(keyring: Keyring, tmp_path: Path) -> None:
    keyring.new("a", "reader")
    _, elsewhere = keyring.new("b", "reader", tmp_path / "b.key")
    made = [tmp_path / "e", keyring.directory, *keyring.directory.iterdir(), elsewhere]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in made} == {0}
    assert not (keyring.directory / "b.key").exists()


def test_what_the_engine_goes_by_holds_no_secret(keyring: Keyring) -> None:
    _, file = keyring.new("a", "reader")
    secret = json.loads(file.read_text())["secret"]
    assert secret not in (keyring.directory / "a.json").read_text()


@pytest.mark.parametrize(
    "name", ["", "server", "Alice", "a b", "../a", "a/b", ".a", "-a", "é", "a" * 65, "a\n", "a\0"]
)
def test_a_name_that_is_none_is_refused(keyring: Keyring, name: str) -> None:
    with pytest.raises(KeyRefused, match="cannot be a key's name"):
        keyring.new(name, "reader")
    with pytest.raises(KeyRefused, match="cannot be a key's name"):
        keyring.revoke(name)
    assert not keyring.exists()


def test_the_longest_name_is_taken(keyring: Keyring) -> None:
    keyring.new("a" * 64, "reader")
    assert names(keyring) == ["a" * 64]


def test_an_unknown_role_is_refused(keyring: Keyring) -> None:
    with pytest.raises(KeyRefused, match="no role god"):
        keyring.new("a", "god")


def test_a_name_that_is_taken_is_refused_and_nothing_changes(keyring: Keyring, tmp_path: Path) -> None:
    keyring.new("a", "reader")
    before = keyring.clients()
    with pytest.raises(KeyRefused, match="a key a already"):
        keyring.new("a", "admin", tmp_path / "other.key")
    assert keyring.clients() == before
    assert not (tmp_path / "other.key").exists()


def test_a_file_that_exists_is_never_replaced(keyring: Keyring, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with pytest.raises(FileExistsError):
        keyring.new("a", "reader", precious)
    assert precious.read_text() == "mine"
    assert names(keyring) == []


def test_a_revoked_key_is_gone_and_its_name_is_free(keyring: Keyring) -> None:
    first, file = keyring.new("a", "reader")
    keyring.revoke("a")
    assert names(keyring) == []
    assert not file.exists()
    with pytest.raises(KeyRefused, match="no key a"):
        keyring.revoke("a")
    assert keyring.new("a", "reader")[0].public != first.public


def test_the_signature_tells_of_every_change(keyring: Keyring) -> None:
    seen = [keyring.signature()]

    def changed() -> bool:
        seen.append(keyring.signature())
        return seen[-1] != seen[-2]

    keyring.new("a", "reader")
    assert changed()
    assert not changed()
    keyring.new("b", "reader")
    assert changed()
    file = keyring.directory / "b.json"
    file.write_text(file.read_text().replace("reader", "admin"))
    assert changed()
    file.chmod(0o644)
    assert changed()
    keyring.directory.chmod(0o755)
    assert changed()
    keyring.directory.chmod(0o700)
    assert changed()
    keyring.revoke("a")
    assert changed()


def test_what_is_no_regular_file_is_named_and_waited_for_by_nobody(keyring: Keyring) -> None:
    keyring.new("a", "reader")
    os.mkfifo(keyring.directory / "b.json", 0o600)
    keys, [problem] = keyring.clients()
    assert [key.name for key in keys] == ["a"]
    assert "no regular file" in problem


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "no file of keys"),
        (lambda text: text[: len(text) // 2], "no file of keys"),
        (lambda text: "[" * 4000, "no file of keys"),
        (lambda text: text + " " * 5000, "too large"),
        (lambda text: text.replace('"armin_key": 1', '"armin_key": 2'), "armin_key is not 1"),
        (lambda text: text.replace("reader", "reeder"), "its role is none of"),
        (lambda text: text.replace('"public": "', '"public": "x'), "field public is no key"),
        (lambda text: text.replace('"public"', '"pub"'), "field public is no key"),
        (lambda text: "7", "armin_key is not 1"),
        (lambda text: json.dumps({**json.loads(text), "public": "#" * 40}), "field public is no key"),
    ],
)
def test_a_damaged_file_puts_its_own_key_out_of_force_and_says_why(
    keyring: Keyring, damage: object, reason: str
) -> None:
    keyring.new("a", "reader")
    keyring.new("b", "reader")
    file = keyring.directory / "a.json"
    file.write_text(damage(file.read_text()))  # type: ignore[operator]
    keys, [problem] = keyring.clients()
    assert [key.name for key in keys] == ["b"]
    assert reason in problem
    assert str(file) in problem


def test_a_file_that_others_can_write_counts_for_nothing(keyring: Keyring) -> None:
    keyring.new("a", "reader")
    (keyring.directory / "a.json").chmod(0o620)
    keys, [problem] = keyring.clients()
    assert keys == []
    assert "chmod" in problem


def test_a_directory_that_others_can_write_puts_every_key_out_of_force(keyring: Keyring) -> None:
    keyring.new("a", "reader")
    keyring.directory.chmod(0o770)
    keys, [problem] = keyring.clients()
    assert keys == []
    assert "chmod" in problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_keys_that_root_makes_belong_to_the_engines_user(keyring: Keyring) -> None:
    keyring.directory.parent.mkdir(mode=0o700)
    os.chown(keyring.directory.parent, 12345, 12345)
    keyring.new("a", "reader")
    made = [keyring.directory, *keyring.directory.iterdir()]
    assert {path.stat().st_uid for path in made} == {12345}


def test_two_names_for_one_key_are_none(keyring: Keyring) -> None:
    keyring.new("a", "reader")
    keyring.new("c", "reader")
    twin = keyring.directory / "b.json"
    twin.write_text((keyring.directory / "a.json").read_text())
    twin.chmod(0o600)
    keys, [problem] = keyring.clients()
    assert [key.name for key in keys] == ["c"]
    assert "a, b" in problem


def test_a_server_key_that_is_none_is_refused(keyring: Keyring) -> None:
    keyring.new("a", "reader")
    file = keyring.directory / "server.key"
    good = file.read_text()
    other = zmq.curve_keypair()[0].decode()
    file.write_text(good.replace(json.loads(good)["public"], other))
    with pytest.raises(KeysInvalid, match="no pair"):
        keyring.server()
    file.unlink()
    with pytest.raises(KeysInvalid, match=r"server\.key"):
        keyring.server()
    file.write_text(good)
    file.chmod(0o640)
    with pytest.raises(KeysInvalid, match="chmod"):
        keyring.server()
