"""A script is a generator that says what to do next; a blocking or an asyncio client does it.

So the same writer runs on both clients. What was done comes back as the value of the `yield`; an error of
the engine or of the client is raised there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from armin.async_client import AsyncClient
from armin.client import Client
from armin.errors import ArminError
from armin.pipeline import Pending
from armin.results import Appended


@dataclass(frozen=True, slots=True)
class Ask:
    """Call a method of the client."""

    method: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Burst:
    """Append without waiting in between, in order; gives a result or an error for each."""

    appends: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for some seconds."""

    seconds: float


Action = Ask | Burst | Pause
Script = Generator[Action, Any, None]


def run(script: Script, client: Client) -> None:
    """Run a script on the blocking client, to its end."""
    result: Any = None
    error: ArminError | None = None
    while True:
        try:
            action = script.send(result) if error is None else script.throw(error)
        except StopIteration:
            return
        result = error = None
        try:
            match action:
                case Ask(method, arguments, options):
                    result = getattr(client, method)(*arguments, **options)
                case Burst(appends):
                    result = _burst(client, appends)
                case Pause(seconds):
                    time.sleep(seconds)
        except ArminError as raised:
            error = raised


def _burst(client: Client, appends: Sequence[Ask]) -> list[Any]:
    with client.pipeline() as pipe:
        pending = [pipe.append(*ask.arguments, **ask.options) for ask in appends]
        return [_outcome(one) for one in pending]


def _outcome(pending: Pending[Appended]) -> Appended | ArminError:
    try:
        return pending.result()
    except ArminError as error:
        return error


async def run_async(script: Script, client: AsyncClient) -> None:
    """Run a script on the asyncio client, to its end."""
    result: Any = None
    error: ArminError | None = None
    while True:
        try:
            action = script.send(result) if error is None else script.throw(error)
        except StopIteration:
            return
        result = error = None
        try:
            match action:
                case Ask(method, arguments, options):
                    result = await getattr(client, method)(*arguments, **options)
                case Burst(appends):
                    writes = (client.append(*ask.arguments, **ask.options) for ask in appends)
                    result = await asyncio.gather(*writes, return_exceptions=True)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
        except ArminError as raised:
            error = raised
