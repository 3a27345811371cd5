"""The blocking side of following: does what a Follower says."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import TypeVar

from armin.channel import Channel, Clock, Inlet
from armin.errors import NoReply, ShuttingDown
from armin.following import Ask, Deliver, Follower, Subscribe, Unsubscribe, Wait

T = TypeVar("T")


def new_token() -> str:
    """A token for one `sync` handshake that no other follower has."""
    return secrets.token_hex(8)


def drive(follower: Follower[T], channel: Channel, live: Inlet, clock: Clock) -> Generator[T, None, None]:
    """Yield what the follower delivers, until it ends."""
    while (action := follower.next(clock())) is not None:
        match action:
            case Deliver(items):
                yield from items
            case Wait(until):
                frames = live.receive(until)
                if frames is None:
                    follower.idle(clock())
                else:
                    follower.received(frames, clock())
            case Ask(call, then):
                try:
                    result = channel.request(call)
                except (NoReply, ShuttingDown) as error:
                    follower.unanswered(error, clock())
                else:
                    then(result, clock())
            case Subscribe(topic):
                live.subscribe(topic)
            case Unsubscribe(topic):
                live.unsubscribe(topic)
