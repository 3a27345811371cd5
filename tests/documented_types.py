"""The types that docs/protocol.md gives to fields, as values: what each takes, and what it refuses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from armin_broker import protocol

ID_MAX: Final = protocol.ID_MAX


class Refused(NamedTuple):
    """A value that is refused, the error's code, and what its `field` has behind the field's name."""

    value: Any
    code: str = "bad_request"
    inside: str = ""


class Kind(NamedTuple):
    """A type: values at its ends, and just beyond them."""

    taken: list[Any]
    refused: list[Refused]


def kind(name: str) -> Kind:
    """The type that a cell of the document names."""
    if name in _PLAIN:
        return _PLAIN[name]
    for pattern, make in _SHAPES:
        found = re.fullmatch(pattern, name)
        if found is not None:
            return make(*found.groups())
    raise AssertionError(f"no type is called {name!r}")


def _wrong(*values: Any) -> list[Refused]:
    return [Refused(value) for value in values]


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


_META: Final = Kind(
    [
        {},
        {"": [None, True, -ID_MAX - 1, ID_MAX, 1.5, "\0", {"b": []}]},
        _nested(protocol.META_DEPTH_MAX),
        {"a": "x" * (protocol.META_BYTES_MAX - len('{"a":""}'))},
    ],
    [
        *_wrong("x", 5, [], {"a": b"x"}, {"a": math.nan}, {"a": math.inf}, {"a": ID_MAX + 1}),
        Refused(_nested(protocol.META_DEPTH_MAX + 1), "too_large"),
        Refused({"a": "x" * protocol.META_BYTES_MAX}, "too_large"),
    ],
)
_MESSAGE: Final = Kind(
    [{"role": "user", "content": "x"}, {"role": "tool", "content": "", "meta": {}}],
    [
        Refused(5),
        Refused({"role": "user"}, inside=".content"),
        Refused({"content": "x"}, inside=".role"),
        Refused({"role": "robot", "content": "x"}, inside=".role"),
        Refused({"role": "user", "content": None}, inside=".content"),
        Refused({"role": "user", "content": "", "meta": 5}, inside=".meta"),
        Refused({"role": "user", "content": "", "key": "k"}, inside=".key"),
    ],
)
_PLAIN: Final[dict[str, Kind]] = {
    "id": Kind([1, ID_MAX], _wrong(0, -1, ID_MAX + 1, 1.0, "1", True)),
    "file": Kind(
        ["b", "A.db", "0", "_-.", "x" * 128],
        _wrong("", ".", "..", ".b", "a/b", "a b", "b\0", "é", "x" * 129, b"b", 5),
    ),
    "cursor": Kind([0, ID_MAX], _wrong(-1, ID_MAX + 1, 0.0, "0", False)),
    "limit": Kind([1, protocol.PAGE_ITEMS_MAX + 1, ID_MAX], _wrong(0, -1, 1.0, "1", True)),
    "bool": Kind([True, False], _wrong(0, 1, "true")),
    "role": Kind(list(protocol.ROLES), _wrong("robot", "", 0, b"user")),
    "token": Kind(["a", "0z" * 32], _wrong("", "A", "a/", "é", "a" * 65, 5, b"a")),
    "lease": Kind(["", "x" * 64], [*_wrong(5, b"x"), Refused("x" * 65, "too_large")]),
    "meta": _META,
    "{role: role, content: text, meta?: meta}": _MESSAGE,
    "command": Kind([{"op": "close_session", "session_id": 1}, {"op": "ping"}, {}], []),
}


def _text(least: str, most: str) -> Kind:
    low, high = int(least), int(most)
    taken = ["x" * low, "x" * high, "é" * (high // 2)]
    refused = [*_wrong(5, b"x", ["x"]), Refused("x" * (high + 1), "too_large")]
    return Kind(taken, refused + ([Refused("")] if low else []))


def _int(least: str, most: str) -> Kind:
    low, high = int(least), int(most) if most else ID_MAX
    beyond = _wrong(low - 1, "1", float(low), True, *([high + 1] if most else []))
    return Kind([low, high], beyond)


def _one_of(choices: str) -> Kind:
    return Kind(choices.split(", "), _wrong("something", "", 5))


def _array(item: str, least: str, most: str) -> Kind:
    low, items = int(least), kind(item)
    one = items.taken[0]
    taken = [[one] * low, list(items.taken)] + ([[one] * int(most)] if most else [])
    refused = [*_wrong("x", 5, {}), *(_within(bad) for bad in items.refused)]
    refused += [Refused([])] if low else []
    refused += [Refused([one] * (int(most) + 1), "too_large")] if most else []
    return Kind(taken, refused)


def _within(bad: Refused) -> Refused:
    return Refused([bad.value], bad.code, "[0]" + bad.inside)


_SHAPES: Final[list[tuple[str, Callable[..., Kind]]]] = [
    (r"text (\d+)\.\.(\d+)", _text),
    (r"int (\d+)\.\.(\d*)", _int),
    (r"one of ([a-z_, ]+)", _one_of),
    (r"\[(.+)\] (\d+)\.\.(\d*)", _array),
]
