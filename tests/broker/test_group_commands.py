"""Parsing the verbs of worker groups: what is wrong is named, with its limit."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from armin_broker import protocol
from armin_broker.commands import parse
from armin_broker.groups.commands import Ack, Discard, Extend, Nack, Requeue
from armin_broker.parsed import Barrier, Change, Lease, Read
from armin_engine.errors import CommandError

G: dict[str, Any] = {"group": "g"}


@pytest.mark.parametrize(
    ("op", "fields", "code", "field", "limit"),
    [
        ("create_group", {"group": "", "start": "now"}, "bad_request", "group", None),
        ("create_group", {"group": 5, "start": "now"}, "bad_request", "group", None),
        ("create_group", {"group": None, "start": "now"}, "bad_request", "group", None),
        ("create_group", {"group": "x" * 129, "start": "now"}, "too_large", "group", 128),
        ("create_group", {**G, "start": "later"}, "bad_request", "start", None),
        ("create_group", {**G, "start": "now", "types": []}, "bad_request", "types", None),
        ("create_group", {**G, "start": "now", "types": "x"}, "bad_request", "types", None),
        ("create_group", {**G, "start": "now", "types": ["x"]}, "bad_request", "types[0]", None),
        ("create_group", {**G, "start": "now", "ordered": 1}, "bad_request", "ordered", None),
        ("create_group", {**G, "start": "now", "max_attempts": 0}, "bad_request", "max_attempts", 1000),
        ("create_group", {**G, "start": "now", "max_attempts": 1001}, "bad_request", "max_attempts", 1000),
        ("create_group", {**G, "start": "now", "backoff_ms": -1}, "bad_request", "backoff_ms", 86_400_000),
        ("create_group", {**G, "start": "now", "on_dead": "x"}, "bad_request", "on_dead", None),
        ("lease", {**G, "max": 0}, "bad_request", "max", 1000),
        ("lease", {**G, "max": True}, "bad_request", "max", 1000),
        ("lease", {**G, "lease_ms": 9}, "bad_request", "lease_ms", 86_400_000),
        ("lease", {**G, "lease_ms": 86_400_001}, "bad_request", "lease_ms", 86_400_000),
        ("lease", {**G, "wait_ms": -1}, "bad_request", "wait_ms", 60_000),
        ("lease", {**G, "wait_ms": 60_001}, "bad_request", "wait_ms", 60_000),
        ("lease", {**G, "request": ""}, "bad_request", "request", None),
        ("lease", {**G, "request": 7}, "bad_request", "request", None),
        ("lease", {**G, "request": "r" * 65}, "too_large", "request", 64),
        ("ack", {**G, "leases": "x"}, "bad_request", "leases", None),
        ("ack", {**G, "leases": ["x", 5]}, "bad_request", "leases[1]", None),
        ("ack", {**G, "leases": ["x" * 65]}, "too_large", "leases[0]", 64),
        ("ack", {**G, "leases": ["x"] * 1001}, "too_large", "leases", 1000),
        ("nack", {**G, "leases": [], "reason": "r" * 1025}, "too_large", "reason", 1024),
        ("nack", {**G, "leases": [], "delay_ms": -1}, "bad_request", "delay_ms", 86_400_000),
        ("nack", {**G, "leases": [], "delay_ms": 86_400_001}, "bad_request", "delay_ms", 86_400_000),
        ("extend", {**G, "leases": [], "lease_ms": 9}, "bad_request", "lease_ms", 86_400_000),
        ("dead_letters", {**G, "after": -1}, "bad_request", "after", None),
        ("dead_letters", {**G, "limit": 0}, "bad_request", "limit", None),
        ("requeue", {**G, "positions": 5}, "bad_request", "positions", None),
        ("requeue", {**G, "positions": [0]}, "bad_request", "positions[0]", None),
        ("discard", {**G, "positions": [1] * 1001}, "too_large", "positions", 1000),
        ("groups", {"group": ""}, "bad_request", "group", None),
        ("drop_group", {"group": ["g"]}, "bad_request", "group", None),
    ],
)
def test_what_is_wrong_is_named(
    op: str, fields: dict[str, Any], code: str, field: str, limit: int | None
) -> None:
    with pytest.raises(CommandError) as caught:
        parse(msgpack.packb({"op": op, **fields}))
    assert (caught.value.code, caught.value.field) == (code, field)
    if limit is not None:
        assert caught.value.limit == limit


def parsed(**fields: Any) -> Any:
    return parse(msgpack.packb({"group": "g", **fields}))


def test_defaults_are_the_documented_ones() -> None:
    assert parsed(op="lease") == Lease("g", 1, protocol.LEASE_MS_DEFAULT, 0, None)
    assert parsed(op="lease", max=None, wait_ms=None, request=None) == parsed(op="lease")
    assert parsed(op="ack", leases=["a"]) == Change(Ack("g", ("a",)))
    assert parsed(op="nack", leases=[]) == Change(Nack("g", (), None, None))
    assert parsed(op="extend", leases=[]) == Change(Extend("g", (), protocol.LEASE_MS_DEFAULT))
    assert parsed(op="requeue") == Change(Requeue("g", None))
    assert parsed(op="discard", positions=[3]) == Change(Discard("g", (3,)))


def test_max_is_clamped() -> None:
    assert parsed(op="lease", max=1 << 40).max == protocol.LEASES_MAX


def test_what_must_not_be_reordered_is_a_barrier() -> None:
    assert isinstance(parsed(op="create_group", start="now"), Barrier)
    assert isinstance(parsed(op="groups"), Read)
    assert isinstance(parsed(op="dead_letters"), Read)
