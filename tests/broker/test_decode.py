"""Bytes from outside: a map, or a clear error, at a bounded cost."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from armin_broker import protocol
from armin_broker.decode import decode
from armin_engine.errors import BadRequest, TooLarge


@given(st.binary(max_size=200))
def test_any_bytes_are_a_map_or_a_bad_request(payload: bytes) -> None:
    try:
        command = decode(payload)
    except (BadRequest, TooLarge):
        return
    assert type(command) is dict
    assert all(type(key) is str for key in command)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "not valid msgpack"),
        (b"\xc1", "not valid msgpack"),
        (b"\x93\x01\x02\x03", "not a msgpack map"),
        (msgpack.packb("text"), "not a msgpack map"),
        (msgpack.packb({"op": "ping"}) + b"\x00", "behind the map"),
        (b"\x81\xa2op", "not valid msgpack"),
        (b"\x82\xa1a\x01\xa1a\x02", "a key twice"),
        (b"\x81\xa1m\x82\xa1a\x01\xa1a\x02", "a key twice"),
        (b"\x81\x01\x02", "map key"),
        (b"\x81\xc4\x01a\x01", "not a string"),
        (b"\x81\x91\x01\x02", "map key"),
        (b"\x81\xa2op\xa2\xc3\x28", "not UTF-8"),
        (b"\x81\xa2op\xa3\xed\xa0\x80", "not UTF-8"),
        (b"\x81\xa1a" * 5000 + b"\xc0", "nested too deeply"),
        (b"\x91" * 5000, "nested too deeply"),
        (b"\xdd\xff\xff\xff\xff", "not valid msgpack"),
        (b"\xdf\xff\xff\xff\xff", "not valid msgpack"),
        (b"\xdb\xff\xff\xff\xff", "not valid msgpack"),
        (b"\xc6\xff\xff\xff\xff", "not valid msgpack"),
    ],
)
def test_malformed_bytes_are_refused_with_the_reason(payload: bytes, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        decode(payload)


def test_values_over_the_budget_are_refused() -> None:
    half = protocol.COMMAND_NODES_MAX // 2
    assert len(decode(msgpack.packb({"a": [0] * half}))["a"]) == half
    with pytest.raises(TooLarge) as error:
        decode(msgpack.packb({"a": [0] * half, "b": [0] * half}))
    assert error.value.limit == protocol.COMMAND_NODES_MAX


def test_megabytes_of_empty_arrays_cost_little_memory() -> None:
    bomb = b"\x81\xa1a\xdc\x00\x40" + b"\xdd\x00\x03\x00\x00" + b"\x90" * (17 << 20)
    tracemalloc.start()
    with pytest.raises((BadRequest, TooLarge)):
        decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
