"""Whether what came is what a vector expects, and where it is not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from armin.conformance.cases import Json, VectorError
from armin.conformance.values import Scope, build, integer, is_built, placeholder

DAY_MS: Final = 86_400_000  # the engine's clock is not wrong by more
SHOWN: Final = 200  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Difference:
    """At `path`, something else came."""

    path: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.got}"


class _Absent:
    """What a field has that is not there."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()
Differences = Iterator[Difference]


def shown(value: object) -> str:
    """A value for a message, cut short."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def differences(expected: Json, got: Any, scope: Scope, path: str = "$") -> Differences:
    """Every place where `got` is not as expected; binds what is to be bound."""
    name = placeholder(expected)
    if name in _MATCHERS:
        arguments = {key: value for key, value in expected.items() if key != name}
        yield from _MATCHERS[name](expected[name], got, scope, path, **arguments)
    elif name is not None:
        if not is_built(name):
            raise VectorError(f"nobody knows {name}")
        yield from _equal(build(expected, scope), got, path)
    elif isinstance(expected, dict):
        yield from _map(expected, got, scope, path)
    elif isinstance(expected, list):
        yield from _array(expected, got, scope, path)
    else:
        yield from _equal(expected, got, path)


def _map(expected: dict[str, Json], got: Any, scope: Scope, path: str) -> Differences:
    """Every listed field must match; there may be further ones."""
    if not isinstance(got, dict):
        yield Difference(path, "a map", shown(repr(got)))
        return
    for name, value in expected.items():
        yield from differences(value, got.get(name, ABSENT), scope, f"{path}.{name}")


def _array(expected: list[Json], got: Any, scope: Scope, path: str) -> Differences:
    if not isinstance(got, list):
        yield Difference(path, "an array", shown(repr(got)))
        return
    if len(got) != len(expected):
        yield Difference(path, f"{len(expected)} items", f"{len(got)}: {shown(repr(got))}")
        return
    for index, (item, value) in enumerate(zip(expected, got, strict=True)):
        yield from differences(item, value, scope, f"{path}[{index}]")


def _equal(expected: Any, got: Any, path: str) -> Differences:
    if not same(expected, got):
        yield Difference(path, shown(repr(expected)), shown(repr(got)))


def same(expected: Any, got: Any) -> bool:
    """Equal in type and value at every depth, fields in the same order."""
    if type(expected) is not type(got):
        return False
    if isinstance(expected, dict):
        return list(expected) == list(got) and all(same(expected[key], got[key]) for key in expected)
    if isinstance(expected, list):
        return len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, float):
        return math.copysign(1, expected) == math.copysign(1, got) and expected == got
    return bool(expected == got)


# --- placeholders that match more than one value --------------------------------------------------


def _bind(name: str, got: Any, scope: Scope, path: str, **arguments: Json) -> Differences:
    yield from differences(arguments.get("is", {"$any": True}), got, scope, path)
    scope.bound[name] = got


def _any(_: Json, got: Any, scope: Scope, path: str) -> Differences:
    if got is ABSENT:
        yield Difference(path, "something", "nothing")


def _absent(_: Json, got: Any, scope: Scope, path: str) -> Differences:
    if got is not ABSENT:
        yield Difference(path, "nothing", shown(repr(got)))


def _one_of(choices: list[Json], got: Any, scope: Scope, path: str) -> Differences:
    if all(any(differences(choice, got, scope, path)) for choice in choices):
        yield Difference(path, f"one of {shown(repr(choices))}", shown(repr(got)))


def _not(unwanted: Json, got: Any, scope: Scope, path: str) -> Differences:
    if got is ABSENT or not any(differences(unwanted, got, scope, path)):
        yield Difference(path, f"anything but {shown(repr(unwanted))}", shown(repr(got)))


def _range(ends: list[Json], got: Any, scope: Scope, path: str) -> Differences:
    low, high = (None if end is None else integer(end, scope) for end in ends)
    if type(got) is not int or (low is not None and got < low) or (high is not None and got > high):
        yield Difference(path, f"an integer from {low} to {high}", shown(repr(got)))


def _time(_: Json, got: Any, scope: Scope, path: str) -> Differences:
    now = int(scope.clock() * 1000)
    if type(got) is not int or abs(got - now) > DAY_MS:
        yield Difference(path, f"a time in milliseconds near {now}", shown(repr(got)))


_TYPES: Final[dict[str, type]] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "map": dict,
    "array": list,
    "binary": bytes,
    "nil": type(None),
}


def _type(name: str, got: Any, scope: Scope, path: str) -> Differences:
    if type(got) is not _TYPES[name]:
        yield Difference(path, f"a value of type {name}", shown(repr(got)))


def _match(pattern: str, got: Any, scope: Scope, path: str) -> Differences:
    if not isinstance(got, str) or re.fullmatch(pattern, got) is None:
        yield Difference(path, f"a string like {pattern}", shown(repr(got)))


def _is(value: Json, got: Any, scope: Scope, path: str) -> Differences:
    yield from _equal(build(value, scope), got, path)


def _each(item: Json, got: Any, scope: Scope, path: str, count: Json = None) -> Differences:
    if not isinstance(got, list):
        yield Difference(path, "an array", shown(repr(got)))
        return
    if count is not None:
        yield from differences(count, len(got), scope, f"{path}.length")
    for index, value in enumerate(got):
        with scope.at(index):
            yield from differences(item, value, scope, f"{path}[{index}]")


def _list(item: Json, got: Any, scope: Scope, path: str, times: Json) -> Differences:
    yield from _each(item, got, scope, path, count=integer(times, scope))


def _contains(items: list[Json], got: Any, scope: Scope, path: str) -> Differences:
    if not isinstance(got, list):
        yield Difference(path, "an array", shown(repr(got)))
        return
    for item in items:
        if all(any(differences(item, value, scope, path)) for value in got):
            yield Difference(path, f"an item like {shown(repr(item))}", shown(repr(got)))


_MATCHERS: Final[dict[str | None, Callable[..., Differences]]] = {
    "$bind": _bind,
    "$any": _any,
    "$absent": _absent,
    "$one_of": _one_of,
    "$not": _not,
    "$range": _range,
    "$time": _time,
    "$type": _type,
    "$match": _match,
    "$is": _is,
    "$each": _each,
    "$list": _list,
    "$contains": _contains,
}
