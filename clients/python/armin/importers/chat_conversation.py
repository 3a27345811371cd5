"""A foreign conversation whose messages are a list under one key: what OpenAI's and ShareGPT's share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from armin.importers.chat_message import Shape, to_armin
from armin.importers.conversation import Conversation, Rejected, session_head, session_name
from armin.importers.json_text import Value
from armin.results import NewMessage


def chat_conversation(
    format_name: str, shape: Shape, list_key: str, found: Value, file: str | None
) -> Conversation:
    """The conversation in `found`; `file` is the name to remember it by.

    Raises:
        Rejected: it has no list of messages, or one that Armin cannot hold.
    """
    value = found.value
    if not isinstance(value, dict) or not isinstance(value.get(list_key), list):
        raise Rejected(f"it is no object with a list `{list_key}`")
    fields = {key: field for key, field in value.items() if key != list_key}
    meta, lead = session_head(format_name, found, fields, file)
    messages = lead + list(_messages(shape, value[list_key]))
    return Conversation(
        found.index,
        found.place,
        session_name(format_name, found, value.get("id")),
        meta,
        messages,
        len(messages),
    )


def _messages(shape: Shape, originals: list[Any]) -> Iterator[NewMessage]:
    for number, original in enumerate(originals, 1):
        try:
            yield to_armin(shape, original)
        except Rejected as error:
            raise Rejected(f"message {number}: {error}") from None
