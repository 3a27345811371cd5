"""Clients with a part taken out, so that the campaign can show that it would notice. For tests alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from armin.calls import Call
from armin.feeds import LogFeed, SessionFeed, Verdict
from armin.results import Event, Message

NO_KEYS: Final = "no-keys"
NO_HEAL: Final = "no-heal"


def without_keys() -> None:
    """Writes go without their keys, so that a resend is another write."""
    encode = Call.encode

    def encode_without(call: Call[Any]) -> bytes:
        fields = {name: value for name, value in call.fields.items() if name not in ("key", "after_key")}
        return encode(Call(call.op, fields, call.parse))

    Call.encode = encode_without  # type: ignore[method-assign, assignment]


def without_heal() -> None:
    """Followers believe the live stream: what is not there was not lost."""

    def take_log(feed: LogFeed, event: Event) -> tuple[Event | None, Verdict]:
        if event.position <= feed.cursor:
            return None, Verdict.FINE
        feed.cursor = event.position
        return event, Verdict.FINE

    def take_message(feed: SessionFeed, event: Event) -> tuple[Message | None, Verdict]:
        if event.message is None:
            return None, Verdict.READ
        if event.message.seq <= feed.cursor:
            return None, Verdict.FINE
        feed.cursor = event.message.seq
        return event.message, Verdict.FINE

    def check(feed: object, position: int) -> Verdict:
        return Verdict.FINE

    LogFeed.take_event = take_log  # type: ignore[method-assign, assignment]
    SessionFeed.take_event = take_message  # type: ignore[method-assign, assignment]
    LogFeed.check = check  # type: ignore[method-assign, assignment]
    SessionFeed.check = check  # type: ignore[method-assign, assignment]


WEAKNESSES: Final[Mapping[str, Callable[[], None]]] = {NO_KEYS: without_keys, NO_HEAL: without_heal}
