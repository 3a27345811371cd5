"""Placeholders become values, and values become msgpack, those included that no client would send."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from armin.conformance.cases import Json, VectorError


@dataclass(frozen=True, slots=True)
class Packed:
    """A value as msgpack has it, valid or not."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pairs:
    """A map given as pairs: with a key twice, or with keys that are no strings."""

    pairs: tuple[tuple[Any, Any], ...]


def _seconds() -> float:
    return time.time()


@dataclass(slots=True)
class Scope:
    """What the placeholders of one case mean.

    limits: as the engine names them. unique: begins every unique name. position: the last committed one
    before the step. bound: what was bound so far. index: of the item of the innermost list.
    """

    limits: Mapping[str, int]
    unique: str
    position: int = 0
    bound: dict[str, Any] = field(default_factory=dict)
    index: int = 0
    clock: Callable[[], float] = _seconds

    @contextmanager
    def at(self, index: int) -> Iterator[None]:
        """Within this item of a list."""
        before, self.index = self.index, index
        try:
            yield
        finally:
            self.index = before


def placeholder(value: Json) -> str | None:
    """The name of the placeholder that a value is, None for a plain one."""
    if not isinstance(value, dict):
        return None
    names = [name for name in value if name.startswith("$")]
    if len(names) > 1:
        raise VectorError(f"a placeholder has one name, not {', '.join(names)}")
    return names[0] if names else None


def build(value: Json, scope: Scope) -> Any:
    """The value that a command, or a part of one, stands for."""
    name = placeholder(value)
    if name is not None:
        make = _BUILDERS.get(name)
        if make is None:
            raise VectorError(f"{name} stands for no value")
        arguments = {key: argument for key, argument in value.items() if key != name}
        try:
            return make(value[name], scope, **arguments)
        except TypeError as error:
            raise VectorError(f"{name}: {error}") from None
    if isinstance(value, dict):
        return {key: build(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [build(item, scope) for item in value]
    return value


def is_built(name: str) -> bool:
    """Whether a placeholder stands for one value."""
    return name in _BUILDERS


def integer(value: Json, scope: Scope) -> int:
    """An integer, or what stands for one."""
    built = build(value, scope)
    if type(built) is not int:
        raise VectorError(f"{built!r} is not an integer")
    return built


# --- placeholders ---------------------------------------------------------------------------------


def _ref(name: str, scope: Scope, plus: int = 0) -> Any:
    if name not in scope.bound:
        raise VectorError(f"nothing is bound to {name}")
    return scope.bound[name] + plus if plus else scope.bound[name]


def _limit(name: str, scope: Scope, over: int = 1, plus: int = 0) -> int:
    if name not in scope.limits:
        raise VectorError(f"the engine names no limit {name}")
    return scope.limits[name] // over + plus


def _position(plus: Json, scope: Scope) -> int:
    return scope.position + integer(plus, scope)


def _unique(label: str, scope: Scope, bytes: Json = None) -> str:
    name = scope.unique + label
    return name if bytes is None else name + "x" * (integer(bytes, scope) - len(name))


def _text(unit: str, scope: Scope, times: Json = None, bytes: Json = None) -> str:
    """`unit` so many times, or as often as it fits into so many bytes, filled up with full stops."""
    if bytes is None:
        return unit * integer(times, scope)
    size, weight = integer(bytes, scope), len(unit.encode())
    return unit * (size // weight) + "." * (size % weight)


def _concat(parts: list[Json], scope: Scope) -> str:
    return "".join(str(build(part, scope)) for part in parts)


def _list(item: Json, scope: Scope, times: Json) -> list[Any]:
    count, built = integer(times, scope), []
    if not isinstance(item, dict | list):
        return [item] * count
    for index in range(count):
        with scope.at(index):
            built.append(build(item, scope))
    return built


def _index(first: int, scope: Scope) -> int:
    return first + scope.index


def _nested(kind: str, scope: Scope, depth: Json) -> Any:
    """Maps in maps, or arrays in arrays, so deep; the innermost is empty."""
    value: Any = {} if kind == "map" else []
    for _ in range(integer(depth, scope) - 1):
        value = {"k": value} if kind == "map" else [value]
    return value


def _map(pairs: list[list[Json]], scope: Scope) -> Pairs:
    return Pairs(tuple((build(key, scope), build(value, scope)) for key, value in pairs))


def _text_of(data: bytes) -> Packed:
    """A string of these bytes, which need not be UTF-8."""
    return Packed(b"\xdb" + struct.pack(">I", len(data)) + data)


_BUILDERS: Final[dict[str, Callable[..., Any]]] = {
    "$ref": _ref,
    "$limit": _limit,
    "$position": _position,
    "$unique": _unique,
    "$text": _text,
    "$concat": _concat,
    "$list": _list,
    "$index": _index,
    "$nested": _nested,
    "$map": _map,
    "$int": lambda digits, scope: int(digits),
    "$float": lambda digits, scope: float(digits),
    "$bin": lambda digits, scope: bytes.fromhex(digits),
    "$str": lambda digits, scope: _text_of(bytes.fromhex(digits)),
    "$packed": lambda digits, scope: Packed(bytes.fromhex(digits)),
    "$literal": lambda value, scope: value,
}


# --- frames ---------------------------------------------------------------------------------------


FRAMES: Final = ("$pack", "$fill", "$repeat")  # placeholders of frames


def frames(values: list[Json], scope: Scope) -> list[bytes]:
    """Frames as they go over the wire: hex digits, `$pack` of a value, `$fill` of bytes, `$repeat` of any."""
    built: list[bytes] = []
    for value in values:
        match value:
            case str():
                built.append(bytes.fromhex(value))
            case {"$pack": packed}:
                built.append(encode(build(packed, scope)))
            case {"$fill": str(digits), "times": times}:
                built.append(bytes.fromhex(digits) * integer(times, scope))
            case {"$repeat": again, "times": times}:
                built += frames([again], scope) * integer(times, scope)
            case _:
                raise VectorError(f"{value!r} is no frame")
    return built


class _Odd(Exception):
    """A value that needs more than `msgpack.packb`."""


def _refuse(value: object) -> Any:
    raise _Odd


def encode(value: Any) -> bytes:
    """A value as msgpack."""
    try:
        packed: bytes = msgpack.packb(value, default=_refuse)
    except _Odd:
        return b"".join(_parts(value))
    return packed


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Packed):
        yield value.data
    elif isinstance(value, dict | Pairs):
        pairs = value.items() if isinstance(value, dict) else value.pairs
        yield b"\xdf" + struct.pack(">I", len(pairs))
        for key, item in pairs:
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, list):
        yield b"\xdd" + struct.pack(">I", len(value))
        for item in value:
            yield from _parts(item)
    else:
        yield msgpack.packb(value)
