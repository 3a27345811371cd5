"""A cursor that was kept together with its epoch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from armin import AsyncClient, Client, CursorInvalid, connect, connect_async
from command_line import CommandLine
from harness import Engine

Use = Callable[[Any, str], Any]

USES: list[Use] = [
    lambda client, epoch: client.log(after=1, epoch=epoch),
    lambda client, epoch: client.read(1, after=1, epoch=epoch),
    lambda client, epoch: client.messages(1, 1, epoch=epoch),
    lambda client, epoch: client.events(1, epoch=epoch),
    lambda client, epoch: client.follow(1, 1, epoch=epoch),
    lambda client, epoch: client.follow_all(1, epoch=epoch),
]


@pytest.fixture(autouse=True)
def talk(engine: Engine) -> None:
    with engine.peer() as peer:
        peer.ask("create_session")
        for content in ("one", "two"):
            peer.ask("append", session_id=1, role="user", content=content)


def first(client: Client, use: Use, epoch: str) -> Any:
    found = use(client, epoch)
    return next(found) if isinstance(found, Iterator) else found


async def first_of(client: AsyncClient, use: Use, epoch: str) -> Any:
    found = use(client, epoch)
    return await anext(found) if isinstance(found, AsyncIterator) else await found


@pytest.mark.parametrize("use", USES)
def test_is_taken_in_this_epoch_and_refused_in_another(engine: Engine, use: Use) -> None:
    with connect(engine.directory) as client:
        assert first(client, use, client.hello().epoch)
        with pytest.raises(CursorInvalid):
            first(client, use, "another")

    async def likewise() -> None:
        async with connect_async(engine.directory) as client:
            assert await first_of(client, use, (await client.hello()).epoch)
            with pytest.raises(CursorInvalid):
                await first_of(client, use, "another")

    asyncio.run(likewise())


def test_on_the_command_line(engine: Engine) -> None:
    armin = CommandLine(engine.directory)
    epoch = armin.json("status")[0]["epoch"]
    for command in (
        ("log", "--after", "1"),
        ("log", "--after", "1", "--follow", "--limit", "2"),
        ("follow", "1", "--after", "1", "--limit", "1"),
        ("follow", "--after", "1", "--limit", "2"),
    ):
        assert "two" in armin.ok(*command, "--epoch", epoch)
        result = armin.run(*command, "--epoch", "another")
        assert (result.code, result.out) == (6, ""), command
        assert "restored" in result.err
