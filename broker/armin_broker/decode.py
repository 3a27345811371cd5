"""Bytes from outside become a map, under a budget, or a clear error."""

from __future__ import annotations

from typing import Any, Final

import msgpack

from armin_broker import protocol
from armin_engine.errors import BadRequest, TooLarge

_LIST_ITEMS_MAX: Final = protocol.COMMAND_NODES_MAX


class _Budget:
    """Counts the values of one command; msgpack calls it as each map and array is complete."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = protocol.COMMAND_NODES_MAX

    def take_list(self, items: list[Any]) -> list[Any]:
        self._left -= len(items) + 1
        if self._left < 0:
            raise _over_budget()
        return items

    def take_map(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        count = len(pairs)
        self._left -= 2 * count + 1
        if self._left < 0:
            raise _over_budget()
        result = dict(pairs)
        if len(result) != count:
            raise BadRequest("a map of the command holds a key twice")
        for key in result:
            if type(key) is not str:
                raise BadRequest("a map of the command holds a key that is not a string")
        return result


def _over_budget() -> TooLarge:
    return TooLarge(
        f"the command holds more than {protocol.COMMAND_NODES_MAX} values",
        field="command_nodes",
        limit=protocol.COMMAND_NODES_MAX,
    )


def decode(payload: bytes) -> dict[str, Any]:
    """The one msgpack map in `payload`. Raises BadRequest or TooLarge."""
    budget = _Budget()
    try:
        command = msgpack.unpackb(
            payload,
            object_pairs_hook=budget.take_map,
            list_hook=budget.take_list,
            strict_map_key=True,
            max_array_len=_LIST_ITEMS_MAX,
            max_map_len=_LIST_ITEMS_MAX,
        )
    except UnicodeDecodeError:
        raise BadRequest("the command holds a string that is not UTF-8") from None
    except msgpack.StackError:
        raise BadRequest("the command is nested too deeply") from None
    except msgpack.ExtraData:
        raise BadRequest("the command's frame holds bytes behind the map") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest(f"the command is not valid msgpack: {str(error)[:200]}") from None
    if type(command) is not dict:
        raise BadRequest("the command is not a msgpack map")
    return command
