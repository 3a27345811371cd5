"""The asyncio side of following: does what a Follower says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeVar

from armin.async_channel import AsyncChannel, AsyncInlet
from armin.channel import Clock
from armin.errors import NoReply, ShuttingDown
from armin.following import Ask, Deliver, Follower, Subscribe, Unsubscribe, Wait

T = TypeVar("T")


async def drive(
    follower: Follower[T], channel: AsyncChannel, live: AsyncInlet, clock: Clock
) -> AsyncGenerator[T, None]:
    """Yield what the follower delivers, until it ends."""
    while (action := follower.next(clock())) is not None:
        match action:
            case Deliver(items):
                for item in items:
                    yield item
            case Wait(until):
                frames = await live.receive(until)
                if frames is None:
                    follower.idle(clock())
                else:
                    follower.received(frames, clock())
            case Ask(call, then):
                try:
                    result = await channel.request(call)
                except (NoReply, ShuttingDown) as error:
                    follower.unanswered(error, clock())
                else:
                    then(result, clock())
            case Subscribe(topic):
                live.subscribe(topic)
            case Unsubscribe(topic):
                live.unsubscribe(topic)
