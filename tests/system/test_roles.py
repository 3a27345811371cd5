"""Who may do what by TCP: every op by every role, by strangers, and by whoever lost a key."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import zmq

import armin
from armin.credentials import Credentials, load
from armin_broker.keyring import Keyring
from armin_broker.protocol import KEY_ROLES, OPS
from harness import REPLY_MS, Engine, Peer, Sockets, wait_until

SECRET = "what only holders of keys may see"
QUIET_MS = 300  # for something that must not come; what is allowed comes in a few

# A well-formed command for each op, so that nothing but the role can be in the way.
COMMANDS: dict[str, dict[str, Any]] = {
    "hello": {},
    "ping": {},
    "create_session": {},
    "append": {"session_id": 1, "role": "user", "content": "x"},
    "append_many": {"session_id": 1, "messages": [{"role": "user", "content": "x"}]},
    "close_session": {"session_id": 2},
    "pipeline": {"commands": [{"op": "append", "session_id": 1, "role": "user", "content": "x"}]},
    "session": {"session_id": 1},
    "sessions": {},
    "tails": {"session_ids": [1]},
    "read": {"session_id": 1},
    "snapshot": {"session_id": 1},
    "delta": {"session_id": 1},
    "refresh_snapshot": {},
    "log": {},
    "sync": {"token": "t"},
    "stats": {},
    "health": {},
    "verify": {},
    "backup": {},
    "create_group": {"group": "g", "start": "begin"},
    "lease": {"group": "g", "max": 1},
    "ack": {"group": "g", "leases": ["none"]},
    "nack": {"group": "g", "leases": ["none"]},
    "extend": {"group": "g", "leases": ["none"]},
    "groups": {},
    "dead_letters": {"group": "g"},
    "requeue": {"group": "g"},
    "discard": {"group": "g"},
    "drop_group": {"group": "h"},
}
# What each role may do that the one before it may not, said again here by hand.
ADDED = {
    "reader": "hello ping session sessions tails read snapshot delta log sync stats health groups"
    " dead_letters",
    "writer": "create_session append append_many close_session pipeline",
    "worker": "create_group lease ack nack extend",
    "admin": "refresh_snapshot verify backup requeue discard drop_group",
}


class Guarded(NamedTuple):
    """An engine that asks for keys on TCP."""

    engine: Engine
    keyring: Keyring
    ports: dict[str, int]

    def endpoint(self, name: str) -> str:
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def key(self, name: str) -> Credentials:
        return load(self.keyring.directory / f"{name}.key")

    def peer(self, name: str) -> Peer:
        return Peer(self.endpoint("commands"), key=self.key(name).options())

    @property
    def url(self) -> str:
        return self.endpoint("commands")


def guarded_engine(directory: Path) -> Iterator[Guarded]:
    keyring = Keyring(directory / "e" / "keys")
    for role in KEY_ROLES:
        keyring.new(role, role)
    engine = Engine(directory / "e", "--tcp", "127.0.0.1:0").start()
    try:
        with engine.peer() as peer:
            peer.ask("create_session", name=SECRET)
            peer.ask("create_session")
            peer.ask("append", session_id=1, role="user", content=SECRET)
            for group in "gh":
                peer.ask("create_group", group=group, start="begin")
            ports = peer.ask("hello")["endpoints"]["tcp"]
        yield Guarded(engine, keyring, ports)
    finally:
        engine.stop()


@pytest.fixture
def guarded(short_dir: Path) -> Iterator[Guarded]:
    yield from guarded_engine(short_dir)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One for all of the matrix."""
    yield from guarded_engine(tmp_path_factory.mktemp("r"))


def allowed(role: str) -> set[str]:
    return {op for each in KEY_ROLES[: KEY_ROLES.index(role) + 1] for op in ADDED[each].split()}


def test_the_matrix_is_whole() -> None:
    assert allowed("admin") == set(OPS) == set(COMMANDS)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("role", KEY_ROLES)
def test_every_role_may_do_what_it_may_and_nothing_else(shared: Guarded, role: str, op: str) -> None:
    with shared.peer(role) as peer:
        reply = peer.ask(op, **COMMANDS[op])
    if op in allowed(role):
        assert reply["ok"] or reply["error"]["code"] != "not_authorized", reply
        assert op != "hello" or reply["role"] == role
        return
    error = reply["error"]
    assert error["code"] == "not_authorized"
    assert error["field"] == "op"
    assert error["retry"] is False
    assert op in error["message"]
    assert f"is {role}" in error["message"]


@pytest.mark.parametrize("op", OPS)
def test_who_comes_by_ipc_needs_no_key(shared: Guarded, op: str) -> None:
    with shared.engine.peer() as peer:
        peer.ask("create_group", group="h", start="begin")
        reply = peer.ask(op, **COMMANDS[op])
    assert reply["ok"] or reply["error"]["reason"] == "backup_running", reply
    assert op != "hello" or reply["role"] == "admin"


def test_a_forbidden_command_is_refused_before_its_fields_are_looked_at(shared: Guarded) -> None:
    with shared.peer("reader") as peer:
        assert peer.ask("append", nonsense=1)["error"]["code"] == "not_authorized"
        assert peer.ask("nonsense")["error"]["code"] == "unknown_op"


@pytest.mark.parametrize("role", KEY_ROLES)
def test_a_key_may_open_only_the_sockets_of_its_role(shared: Guarded, role: str) -> None:
    with Sockets() as sockets, shared.engine.peer() as peer:
        key = shared.key(role).options()
        live = sockets.open(zmq.SUB, shared.endpoint("live"), b"", key=key)
        effects = sockets.open(zmq.PULL, shared.endpoint("effects"), key=key)
        wait_until(lambda: hears(live, peer), what="its subscription is there")
        allowed = role in ("worker", "admin")
        assert bool(effects.poll(REPLY_MS if allowed else QUIET_MS)) == allowed


def hears(live: zmq.Socket[bytes], peer: Peer) -> bool:
    peer.ask("append", session_id=1, role="user", content=SECRET)
    return bool(live.poll(50))


# --- strangers --------------------------------------------------------------------------------------


def own_pair(server: bytes) -> dict[int, bytes]:
    public, secret = zmq.curve_keypair()
    return {zmq.CURVE_SERVERKEY: server, zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret}


def no_key(guarded: Guarded) -> dict[int, bytes]:
    return {}


def unknown_key(guarded: Guarded) -> dict[int, bytes]:
    return own_pair(guarded.key("admin").server)


def wrong_server(guarded: Guarded) -> dict[int, bytes]:
    return {**guarded.key("admin").options(), zmq.CURVE_SERVERKEY: zmq.curve_keypair()[0]}


@pytest.mark.parametrize("key_of", [no_key, unknown_key, wrong_server])
def test_a_stranger_gets_nothing_from_any_socket(
    guarded: Guarded, key_of: Callable[[Guarded], dict[int, bytes]]
) -> None:
    key = key_of(guarded)
    with Sockets() as sockets, guarded.peer("writer") as writer:
        commands = sockets.open(zmq.DEALER, guarded.endpoint("commands"), key=key)
        for number, (op, fields) in enumerate(COMMANDS.items()):
            commands.send_multipart([b"%d" % number, msgpack.packb({"op": op, **fields})])
        live = sockets.open(zmq.SUB, guarded.endpoint("live"), b"", key=key)
        effects = sockets.open(zmq.PULL, guarded.endpoint("effects"), key=key)
        witness = sockets.open(
            zmq.SUB, guarded.endpoint("live"), b"message/", key=guarded.key("reader").options()
        )
        wait_until(lambda: hears(witness, writer), what="the witness hears")
        before = writer.ask("ping")["position"]
        for _ in range(20):
            assert writer.ask("append", session_id=1, role="user", content=SECRET)["ok"]
        for each in (commands, live, effects):
            assert not each.poll(QUIET_MS)
        # None of its commands was taken: the log holds the writer's messages alone.
        assert writer.ask("ping")["position"] == before + 20


def test_a_stranger_who_speaks_the_protocol_by_hand_sees_a_greeting_and_no_more(guarded: Guarded) -> None:
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
    with guarded.peer("writer") as writer:
        for name in guarded.ports:
            with socket.create_connection(("127.0.0.1", guarded.ports[name]), timeout=60) as raw:
                raw.sendall(greeting + ready + b"\x00\x01\x01" * 100)
                assert writer.ask("append", session_id=1, role="user", content=SECRET)["ok"]
                got = until_closed(raw)
            assert len(got) <= 64
            assert got[12:17] in (b"CURVE", b"")


def until_closed(raw: socket.socket) -> bytes:
    got = b""
    try:
        while more := raw.recv(4096):
            got += more
    except ConnectionError:
        pass
    return got


def test_the_client_says_what_is_wrong_with_a_key(guarded: Guarded, short_dir: Path) -> None:
    other = Keyring(short_dir / "other")
    other.new("stranger", "admin")
    fields = (
        (short_dir / "other" / "stranger.key")
        .read_text()
        .replace(other.server().public.decode(), guarded.keyring.server().public.decode())
    )
    key = short_dir / "stranger.key"
    key.write_text(fields)
    key.chmod(0o600)
    with armin.connect(guarded.url, key=key) as client, pytest.raises(armin.NotAuthorized) as raised:
        client.ping()
    assert raised.value.field == "key"
    with armin.connect(guarded.url, key=guarded.keyring.directory / "reader.key") as client:
        assert client.ping()
        with pytest.raises(armin.NotAuthorized, match=r"create_session .* writer"):
            client.create_session()
        with pytest.raises(armin.NotAuthorized):
            next(iter(client.effects()))


# --- revoked ----------------------------------------------------------------------------------------


def test_a_revoked_key_is_out_within_a_second_and_the_others_heal(guarded: Guarded) -> None:
    guarded.keyring.new("lost", "worker")
    with guarded.engine.peer() as writer, Sockets() as sockets, guarded.peer("reader") as other:
        key = guarded.key("lost").options()
        lost = Peer(guarded.endpoint("commands"), key=key)
        assert lost.ask("ping")["ok"], "a new key is in force at once"
        live = sockets.open(zmq.SUB, guarded.endpoint("live"), b"message/", key=key)
        effects = sockets.open(zmq.PULL, guarded.endpoint("effects"), key=key)
        wait_until(lambda: hears(live, writer) and bool(effects.poll(50)))
        beats = writer.listen(guarded.engine.endpoint("live"), b"heartbeat/")
        with armin.connect(guarded.url, key=guarded.keyring.directory / "reader.key") as client:
            follow = client.follow(1)
            seen = [next(follow).seq]
            guarded.keyring.revoke("lost")
            revoked = time.time() * 1000
            refused = writer.ask("stats")["handshakes_failed"]
            heard, after = [0], list[int]()  # positions: of what came over the lost key, of heartbeats
            seq = 0
            while len(after) < 3 or writer.ask("stats")["handshakes_failed"] < refused + 3:
                seq = writer.ask("append", session_id=1, role="user", content=SECRET)["seq"]
                for each in (live, effects):
                    while each.poll(5):
                        heard.append(msgpack.unpackb(each.recv_multipart()[-1])["position"])
                while beats.poll(0):
                    beat = msgpack.unpackb(beats.recv_multipart()[1])
                    after += [beat["position"]] if beat["time"] > revoked else []
            # By the engine's own seconds, the first of which was under way.
            assert max(heard) <= after[1], "out by its second heartbeat"
            while seen[-1] < seq:
                seen.append(next(follow).seq)
            assert seen == list(range(1, seq + 1))
        assert not comes_in(lost)
        lost.close()
        assert other.ask("read", session_id=1)["ok"]


def test_descriptors_that_are_given_anew_at_once_hide_no_connection(guarded: Guarded) -> None:
    """A connection to one socket ends, and its number is that of the next one to another socket."""
    with Sockets() as sockets, guarded.engine.peer() as writer:
        key = guarded.key("reader").options()
        subscribers = []
        for _ in range(8):
            socket.create_connection(("127.0.0.1", guarded.ports["effects"]), timeout=60).close()
            subscribers.append(sockets.open(zmq.SUB, guarded.endpoint("live"), b"message/", key=key))
        wait_until(lambda: all(hears(each, writer) for each in subscribers))
        wait_until(lambda: writer.ask("stats")["followers"] == len(subscribers))
        guarded.keyring.revoke("reader")
        wait_until(lambda: writer.ask("stats")["connections_tcp"] == 0)
        assert writer.ask("append", session_id=1, role="user", content="after")["ok"]
        for each in subscribers:
            while each.poll(QUIET_MS // 8):
                assert b"after" not in each.recv_multipart()[1]


def comes_in(peer: Peer) -> bool:
    """Whether a peer is answered; a socket that was refused does not even take what is sent."""
    peer.socket.sndtimeo = QUIET_MS
    try:
        peer.send("ping")
    except zmq.Again:
        return False
    return bool(peer.socket.poll(1000)) and peer.receive()[1]["ok"]


def test_a_changed_role_counts_for_the_next_command(guarded: Guarded) -> None:
    with guarded.peer("writer") as peer:
        assert peer.ask("append", session_id=1, role="user", content="x")["ok"]
        file = guarded.keyring.directory / "writer.json"
        file.write_text(file.read_text().replace('"writer",\n "public"', '"reader",\n "public"'))
        wait_until(lambda: refused(peer), what="it is a reader now")
    with guarded.peer("writer") as peer:  # the other one may still be given answers that came late
        assert peer.ask("read", session_id=1)["ok"]


def refused(peer: Peer) -> bool:
    peer.socket.sndtimeo = QUIET_MS
    try:
        peer.send("append", session_id=1, role="user", content="x")
    except zmq.Again:
        return False
    if not peer.socket.poll(1000):
        return False  # it went down with the connection
    return peer.receive()[1].get("error", {}).get("code") == "not_authorized"


def test_a_key_file_that_breaks_takes_its_own_key_out_of_force_and_no_other(guarded: Guarded) -> None:
    with guarded.peer("writer") as writer, guarded.peer("reader") as reader:
        assert writer.ask("ping")["ok"]
        (guarded.keyring.directory / "writer.json").write_text('{"armin_key": 1, "ro')
        wait_until(lambda: "out of force" in guarded.engine.errors())
        wait_until(lambda: comes_in(reader), what="the reader is back")
        assert not comes_in(writer)
