"""Python and Node, on one engine: what one writes the other reads, to the last character and bit."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import armin
from armin_broker import protocol
from harness import Engine
from node_client import node, program

SAFE = 2**53 - 1  # above, a number of JavaScript is not exact
PLANES = "".join(
    chr(plane << 16 | point) for plane in range(17) for point in (0x41, 0x1234, 0xFFFD, 0xFFFE, 0xFFFF)
)
CONTENTS = {
    "empty": "",
    "NUL": "\0",
    "NUL within": "a\0b\0",
    "every plane": PLANES,
    "every plane, long": PLANES * 100,
    "every character of the first plane": "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000)))),
    "byte order mark": "\ufeff",
    "byte order mark, long": "\ufeff" + "x" * 5000,
    "byte order mark within": "x\ufeffx" * 100,
    "replacement character": "\ufffd" * 300,
    "line ends": "\r\n\n\r\u2028\u2029\x85",
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "combining": "e\u0301 é \u1100\u1161 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "other way round": "\u202eabc\u202c \u05d0\u05d1 \u0627\u0644",
    "looks like JSON": '{"$int": 1, "a": "\\ud800"}',
    "16 MiB": "y" * protocol.CONTENT_BYTES_MAX,
    "16 MiB of emoji": "\U0001f600" * (protocol.CONTENT_BYTES_MAX // 4),
}
METAS: list[dict[str, Any]] = [
    {},
    {
        "__proto__": {"polluted": True},
        "constructor": 1,
        "toString": "x",
        "": None,
        "\0": "\0",
        "\ufeff": "\ufeff",
    },
    {
        "ints": [
            0,
            -1,
            2**31,
            2**32,
            -(2**31) - 1,
            2**40,
            SAFE,
            SAFE + 1,
            SAFE + 2,
            2**63 - 1,
            -(2**63),
            -SAFE - 2,
        ]
    },
    {"floats": [1.5, -0.5, 1e300, 5e-324, 1.7976931348623157e308, 0.1]},
    {"nested": [[[{"a": [None, True, False, "", {}]}]]], PLANES[:5]: PLANES},
]


def spoken(value: Any) -> Any:
    """As the Node program says it: integers that JSON readers would round as text."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > SAFE:
        return {"int64": str(value)}
    if isinstance(value, Mapping):
        return {key: spoken(item) for key, item in value.items()}
    return [spoken(item) for item in value] if isinstance(value, list | tuple) else value


def exchange(engine: Engine, *arguments: str, order: Any = None) -> Any:
    """What the Node program answers."""
    done = subprocess.run(
        [node(), program("guests/exchange"), str(engine.directory), *arguments],
        input=json.dumps(spoken(order)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def told(message: armin.Message) -> dict[str, Any]:
    """A message of the Python client as the Node program says it."""
    fields = {
        "id": message.id,
        "sessionId": message.session_id,
        "seq": message.seq,
        "role": message.role,
        "content": message.content,
        "createdAt": message.created_at,
        "meta": message.meta,
        "elided": message.elided,
    }
    said: dict[str, Any] = spoken(fields)
    return said


def messages() -> list[dict[str, Any]]:
    """One message for each content and each meta."""
    roles = protocol.ROLES
    plain = [{"role": roles[n % 4], "content": content} for n, content in enumerate(CONTENTS.values())]
    return plain + [{"role": "tool", "content": "", "meta": meta} for meta in METAS]


@pytest.fixture(params=[1, SAFE + 3], ids=["ids from 1", "ids above 2^53"])
def first_id(request: pytest.FixtureRequest) -> int:
    """The first id that the engine gives, to sessions and to messages."""
    wanted: int = request.param
    return wanted


@pytest.fixture
def engine(short_dir: Path, first_id: int) -> Iterator[Engine]:
    """A running engine whose ids begin there."""
    engine = Engine(short_dir / "e").start()
    if first_id > 1:
        assert engine.stop() == 0
        with sqlite3.connect(engine.directory / protocol.DATABASE_FILE) as file:
            for table in ("sessions", "messages"):
                file.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, first_id - 1))
        file.close()
        engine.start()
    yield engine
    engine.stop()


def test_what_python_writes_node_reads(engine: Engine, first_id: int) -> None:
    with armin.connect(engine.directory, timeout=60) as client:
        session = client.create_session("written in Python \U0001f40d", meta=METAS[1])
        for message in messages():
            client.append(session.id, message["role"], message["content"], message.get("meta"))
        client.close_session(session.id)
        assert session.id == first_id
        written = [told(message) for message in client.messages(session.id)]
    found = exchange(engine, "read", str(session.id))
    assert found["session"]["name"] == session.name
    assert found["session"]["meta"] == spoken(session.meta)
    assert found["session"]["id"] == spoken(session.id)
    assert found["read"] == written
    assert found["followed"] == written
    places = [(message["id"], message["seq"]) for message in found["logged"]]
    assert places == [(message["id"], message["seq"]) for message in written]


def test_what_node_writes_python_reads(engine: Engine, first_id: int) -> None:
    order = {"name": "written in Node \u2b22", "meta": METAS[1], "messages": messages()}
    answer = exchange(engine, "write", order=order)
    with armin.connect(engine.directory, timeout=60) as client:
        session = client.session(name=order["name"])
        assert session.id == first_id
        assert spoken(session.id) == answer["session"]["id"]
        assert session.meta == METAS[1]
        assert session.closed
        read = list(client.messages(session.id))
        followed = list(client.follow(session.id))
    assert followed == read
    half = len(read) // 2
    assert [spoken(message.id) for message in read[:half]] == [one["id"] for one in answer["outcomes"]]
    for wanted, one, again in zip(messages(), read[:half], read[half:], strict=True):
        for found in (one, again):
            assert (found.role, found.content) == (wanted["role"], wanted["content"])
            assert found.meta == wanted.get("meta")
            assert list(found.meta or {}) == list(wanted.get("meta") or {})


@pytest.mark.parametrize("first_id", [1])
def test_what_cannot_be_said_is_refused_alike(engine: Engine) -> None:
    bad: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"role": "user", "content": "\ud800"}, {"field": "content"}),
        ({"role": "user", "content": "x" * 5000 + "\udfff" + "x" * 5000}, {"field": "content"}),
        ({"role": "\udfff", "content": "x"}, {"field": "role"}),
        ({"role": "user", "content": "x", "meta": {"a": ["\ud800"]}}, {"field": "meta"}),
        ({"role": "user", "content": "x", "meta": {"\udfff": 1}}, {"field": "meta"}),
        ({"role": "user", "content": None}, {"field": "content"}),
        ({"role": "robot", "content": "x"}, {"field": "role"}),
        ({"role": "user", "content": "x", "meta": {"a": 2**64 - 1}}, {"field": "meta"}),
        (
            {"role": "user", "content": "y" * (protocol.CONTENT_BYTES_MAX + 1)},
            {"code": "too_large", "field": "content", "limit": protocol.CONTENT_BYTES_MAX},
        ),
        (
            {"role": "user", "content": "x", "meta": {"a": "y" * protocol.META_BYTES_MAX}},
            {"code": "too_large", "field": "meta", "limit": protocol.META_BYTES_MAX},
        ),
    ]
    expected = [{"code": "bad_request", "limit": None, **error} for _, error in bad]
    order = {"name": "bad", "meta": {}, "messages": [message for message, _ in bad]}
    assert exchange(engine, "write", order=order)["outcomes"] == expected
    with armin.connect(engine.directory, timeout=60) as client:
        assert client.session(name="bad").seq == 0
        session = client.create_session()
        for (message, _), error in zip(bad, expected, strict=True):
            with pytest.raises(armin.ArminError) as caught:
                client.append(session.id, **message)
            found = {"code": caught.value.code, "field": caught.value.field, "limit": caught.value.limit}
            assert found == error
        assert client.session(session.id).seq == 0
