"""What is thrown at the engine: commands, commands with spoilt fields or bytes, and what is no command.

All of it comes from one `random.Random`, so a seed repeats it.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from armin_broker import protocol

Pairs = list[tuple[bytes, bytes]]  # the fields of a command, packed, in order; a name may come twice

_pack: Final = msgpack.packb
_LONG: Final = (64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025)  # around the limits of short strings
_EDGES: Final = (0, 1, -1, 127, 128, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63))
_DENSE_MAX: Final = 300_000  # values in an array that is too long


def _odd_values() -> list[bytes]:
    """Values of every msgpack type, most of them wrong wherever they stand."""
    fine: list[Any] = [
        None,
        True,
        False,
        *_EDGES,
        0.5,
        -0.0,
        "",
        "x",
        "user",
        "\0",
        "é☕\U0001f600",
        b"",
        b"x",
    ]
    nested: list[Any] = [[], {}, [[]], {"a": {}}, [None] * 3, {"": 0}, [{"role": "user", "content": ""}]]
    strange = [
        struct.pack(">Bd", 0xCB, float("nan")),
        struct.pack(">Bd", 0xCB, float("inf")),
        struct.pack(">Bf", 0xCA, float("-inf")),
        b"\xa3\xed\xa0\x80",  # a lone surrogate
        b"\xa2\xc3\x28",  # no UTF-8
        b"\xa4\xf0\x9f\x98",  # cut off within a character
        b"\xc1",  # the byte that msgpack never uses
        b"\xd6\xff\0\0\0\x01",  # a timestamp
        b"\xc7\x0c\xff" + bytes(3) + b"\xff" * 9,  # a timestamp that there is not
        b"\xd4\x05\x01",
        b"\xc7\x03\x05abc",
        b"\x81\x01\x02",  # a key that is a number
        b"\x81\xc0\xc0",
        b"\x82\xa1a\x01\xa1a\x02",  # a key that comes twice
        b"\xdc\x00\x01\xc0",  # longer forms than it takes
        b"\xdf\x00\x00\x00\x01\xa1a\xc0",
        b"\xd9\x01x",
        b"\xcf" + bytes(7) + b"\x01",
    ]
    return [*map(_pack, [*fine, *nested, *("y" * size for size in _LONG)]), *strange]


ODD: Final = _odd_values()
_LEADS: Final = bytes(
    [0xC1, 0xC4, 0xC6, 0xC7, 0xC9, 0xD4, 0xD8, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0x8F, 0x9F]
)
_NAMES: Final = sorted(
    {name for fields in protocol.OPS.values() for name in (*fields.required, *fields.optional)}
)
_OPS: Final = sorted(protocol.OPS)


class Commands:
    """An endless supply of frames."""

    def __init__(self, chance: random.Random, seeds: Sequence[bytes] = ()) -> None:
        self.chance = chance
        self._seeds = list(seeds)
        self._kinds: dict[Callable[[], bytes], int] = {
            self.valid: 25,
            self._misfit: 35,
            self._spoilt: 30,
            self._garbage: 6,
            self._nested: 2,
            self._cut_short: 2,
        }

    def frame(self) -> bytes:
        """The next one."""
        (kind,) = self.chance.choices(list(self._kinds), list(self._kinds.values()))
        if self.chance.random() < 0.0002:
            kind = self._dense
        return kind()

    # --- commands as they should be ---

    def valid(self, ops: Sequence[str] = _OPS) -> bytes:
        """A command whose fields fit its op; whether it succeeds depends on what there is."""
        return _map(self._fields(ops))

    def _fields(self, ops: Sequence[str] = _OPS) -> Pairs:
        op = self.chance.choice(ops)
        fields = protocol.OPS[op]
        optional = [name for name in fields.optional if self.chance.random() < 0.3]
        if op == "backup" and self.chance.random() < 0.95:
            optional = ["job"]  # without it, it starts a process
        pairs = [(name, self._value(op, name)) for name in (*fields.required, *optional)]
        return [(_pack("op"), _pack(op)), *((_pack(name), value) for name, value in pairs)]

    def _value(self, op: str, name: str) -> bytes:
        if op == "pipeline":
            parts = [
                self.valid(("append", "append", "append_many", "close_session", "ping"))
                for _ in range(self.chance.randrange(1, 5))
            ]
            return _array(parts)
        return _pack(self._plain(op, name))

    def _plain(self, op: str, name: str) -> Any:
        chance = self.chance
        number = chance.randrange(1, 7)
        session_id = int(chance.expovariate(1 / 20)) + 1
        texts = {
            "role": chance.choice(protocol.ROLES),
            "content": chance.choice(("", "hello", "é☕", "x" * 300)),
            "name": f"n{number}",
            "key": f"k{session_id}.{number}",
            "after_key": f"k{session_id}.{number}",
            "token": f"t{number}",
            "group": chance.choice("gh"),
            "start": chance.choice(("begin", "now")),
            "on_dead": chance.choice(("skip", "halt")),
            "request": f"r{number}",
            "reason": chance.choice(("heal", "busy")),
        }
        lists = {
            "messages": [{"role": "user", "content": "m", "meta": {"n": n}} for n in range(number)],
            "session_ids": list(range(number)),
            "types": list(protocol.EVENT_TYPES[:number]),
            "leases": [f"1.{session_id + n}.{n + 1}" for n in range(number)],
            "positions": list(range(1, number)),
        }
        others = {
            "meta": {"tokens": number, "tools": [{"name": "f", "arguments": {}}], "cost": 0.5, "last": None},
            "session_id": session_id,
            "closed": number > 3,
            "ordered": number > 3,
            "limit": number,
            "wait_ms": chance.choice((0, 1, 50, 1000)),
            "lease_ms": chance.choice((10, 100, 30_000)),
            "backoff_ms": chance.choice((0, 10, 1000)),
            "delay_ms": chance.choice((0, 10, 1000)),
        }
        return {**texts, **lists, **others}.get(name, number)

    # --- and as they should not ---

    def _misfit(self) -> bytes:
        """Fields left out, added, doubled, renamed, of another type."""
        pairs = self._fields()
        for _ in range(self.chance.randrange(1, 4)):
            self.chance.choice((self._drop, self._double, self._retype, self._rename, self._add))(pairs)
        return _map(pairs, self.chance.choice((0, 0, 0, 0, 0, 1, -1)))

    def _drop(self, pairs: Pairs) -> None:
        if pairs:
            del pairs[self.chance.randrange(len(pairs))]

    def _double(self, pairs: Pairs) -> None:
        if pairs:
            pairs.insert(self.chance.randrange(len(pairs) + 1), self.chance.choice(pairs))

    def _retype(self, pairs: Pairs) -> None:
        if pairs:
            place = self.chance.randrange(len(pairs))
            pairs[place] = (pairs[place][0], self._odd(pairs[place][1]))

    def _rename(self, pairs: Pairs) -> None:
        if pairs:
            place = self.chance.randrange(len(pairs))
            name = self.chance.choice((_pack(self.chance.choice(_NAMES)), self.chance.choice(ODD)))
            pairs[place] = (name, pairs[place][1])

    def _add(self, pairs: Pairs) -> None:
        name = self.chance.choice((*_NAMES, "", "x" * 100, "é"))
        pairs.append((_pack(name), self._odd(b"\x01")))

    def _odd(self, value: bytes) -> bytes:
        """Something in place of a value, or around it."""
        chance = self.chance
        kind = chance.randrange(10)
        if kind == 0:
            return _array([value, chance.choice(ODD)])
        if kind == 1:
            return _map([(_pack(chance.choice(("a", "role", "content", "op"))), value)])
        if kind == 2:
            return _map([(_pack("role"), _pack("user")), (_pack("content"), chance.choice(ODD))])
        if kind == 3:
            return _array(
                [_map([(_pack("op"), chance.choice((_pack("append"), value))), *self._fields()[1:]])]
            )
        if kind == 4:
            return _array([_map([(_pack("role"), _pack("tool")), (chance.choice(ODD), value)])])
        return chance.choice(ODD)

    def _spoilt(self) -> bytes:
        """Bytes changed, lost, repeated, put in, or taken from another command."""
        base = self.chance.choice(self._seeds) if self._seeds and self.chance.random() < 0.4 else self.valid()
        data = bytearray(base)
        for _ in range(self.chance.choice((1, 1, 1, 2, 3, 8))):
            self._spoil(data)
        return bytes(data)

    def _spoil(self, data: bytearray) -> None:
        chance = self.chance
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randrange(1, 9))
        kind = chance.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * chance.randrange(1, 4)
        elif kind == 4:
            data[at : at + 1] = bytes([chance.choice(_LEADS)]) + struct.pack(">I", self._length())
        elif kind == 5:
            data[at:end] = chance.choice(ODD)
        elif kind == 6 and self._seeds:
            other = chance.choice(self._seeds)
            data[at:] = other[chance.randrange(len(other) + 1) :]
        else:
            data[at:at] = chance.randbytes(chance.randrange(1, 4))

    def _length(self) -> int:
        return self.chance.choice((0, 1, 2, 255, 1 << 16, 1 << 20, 1 << 31, (1 << 32) - 1))

    def _garbage(self) -> bytes:
        return self.chance.randbytes(int(self.chance.expovariate(1 / 40)))

    def _nested(self) -> bytes:
        depth = self.chance.choice((5, 15, 16, 17, 100, 500, 1023, 1024, 1025, 5000))
        opening = self.chance.choice((b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\x92\xc0"))
        within = self.chance.choice((b"\xc0", b"", b"\xc1", b"\x90"))
        start = [(_pack("op"), _pack("create_session")), (_pack("meta"), opening * depth + within)]
        return _map(start) if self.chance.random() < 0.8 else opening * depth + within

    def _cut_short(self) -> bytes:
        """A length that promises more than there is."""
        lead = self.chance.choice(_LEADS)
        return b"\x81\xa1a" + bytes([lead]) + struct.pack(">I", self._length()) + b"x" * 20

    def _dense(self) -> bytes:
        """As many values as bytes."""
        count = self.chance.choice((1000, 70_000, _DENSE_MAX))
        item = self.chance.choice((b"\x90", b"\xc0", b"\x80", b"\xa0", b"\x01"))
        name = self.chance.choice(("session_ids", "meta", "commands", "messages", "leases", "nothing"))
        op = next((op for op, fields in protocol.OPS.items() if name in fields.required), "create_session")
        values = b"\xdd" + struct.pack(">I", count) + item * count
        others = [(_pack(each), b"\x01") for each in protocol.OPS[op].required if each != name]
        return _map([(_pack("op"), _pack(op)), (_pack(name), values), *others])


def _map(pairs: Pairs, off: int = 0) -> bytes:
    """A map of packed pairs; `off` by so many in its header."""
    count = max(0, len(pairs) + off)
    head = bytes([0x80 | count]) if count < 16 else b"\xde" + struct.pack(">H", count)
    return head + b"".join(part for pair in pairs for part in pair)


def _array(items: list[bytes]) -> bytes:
    return bytes([0x90 | len(items)]) + b"".join(items)
