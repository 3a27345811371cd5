"""Keys in force: read again when they change, kept when they cannot be read, and an end in any case."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from armin_broker.authority import Authority
from armin_broker.keyring import Keyring, KeysInvalid
from armin_broker.sender import UNKNOWN


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(0)


def test_a_domain_is_for_its_roles(keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    made = {role: keyring.new(role, role)[0].public for role in ("reader", "writer", "worker", "admin")}
    authority = Authority(context, keyring)
    let_in = {
        domain: [role for role, key in made.items() if authority.callback(domain, key.encode())]
        for domain in ("commands", "live", "effects")
    }
    assert let_in == {"commands": list(made), "live": list(made), "effects": ["worker", "admin"]}
    assert not authority.callback("commands", zmq.curve_keypair()[0])


def test_a_key_that_is_a_moment_old_is_let_in(
    keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    keyring.new("first", "reader")
    authority = Authority(context, keyring)
    second = keyring.new("second", "writer")[0]
    assert authority.sender(second.public) is UNKNOWN
    assert authority.callback("commands", second.public.encode())
    assert authority.take_lost() == 0


def test_what_is_lost_is_told_once(keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    gone, kept = (keyring.new(name, "reader")[0] for name in ("gone", "kept"))
    authority = Authority(context, keyring)
    keyring.revoke("gone")
    authority.refresh()
    assert (authority.take_lost(), authority.take_lost()) == (1, 0)
    assert authority.sender(gone.public) is UNKNOWN
    assert authority.sender(kept.public) == kept.sender


def test_keys_that_cannot_be_read_for_now_stay_in_force(
    keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For want of descriptors, say; and they are read as soon as they can be."""

    def fails() -> None:
        raise OSError(24, "Too many open files")

    key, lost = (keyring.new(name, "reader")[0] for name in ("a", "b"))
    authority = Authority(context, keyring)
    for what in ("signature", "clients"):
        with monkeypatch.context() as patch:
            patch.setattr(keyring, what, fails)
            keyring.revoke("b") if what == "clients" else None
            authority.refresh()
            assert authority.callback("commands", key.public.encode())
            assert not authority.callback("commands", zmq.curve_keypair()[0])
            assert authority.sender(lost.public) == lost.sender
    authority.refresh()
    assert authority.sender(lost.public) is UNKNOWN


def test_a_bug_in_reading_keys_ends_no_thread(
    keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError("a bug")

    key = keyring.new("a", "reader")[0]
    authority = Authority(context, keyring)
    monkeypatch.setattr(keyring, "signature", fails)
    assert not authority.callback("commands", zmq.curve_keypair()[0])
    assert authority.callback("commands", key.public.encode())


def test_it_stops_though_its_thread_is_dead(
    keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    keyring.new("a", "reader")
    authority = Authority(context, keyring)
    authority.start()
    authority._authenticator.pipe.send(b"TERMINATE")
    authority._authenticator.thread.join(60)
    authority.stop()


def test_keys_that_cannot_be_used_are_refused_at_the_start(
    keyring: Keyring, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    keyring.new("a", "reader")
    (keyring.directory / "a.json").chmod(0o644)
    with pytest.raises(KeysInvalid, match="chmod"):
        Authority(context, keyring)
