"""A session as one line of OpenAI chat JSON Lines, message by message, so that none is held."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from armin.importers import openai, sharegpt
from armin.importers.conversation import HOLDS, HOLDS_CONVERSATION, HOLDS_MESSAGE, join_source, source_of
from armin.importers.fitting import readable_json
from armin.results import Message, Session

# What OpenAI's interface knows of a message and of a conversation, where the meta of a session that did
# not come from there has it.
MESSAGE_FIELDS: Final = ("name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio")
CONVERSATION_FIELDS: Final = ("tools", "functions", "parallel_tool_calls")


def openai_line(session: Session, messages: Iterator[Message]) -> Iterator[str]:
    """The pieces of the line, without its end."""
    if source_of(session.meta).get("format") == openai.OPENAI:
        return _line(join_source(session.meta), messages, _original)
    return _line(_fields(session), messages, _rendered)


def _line(
    fields: dict[str, Any], messages: Iterator[Message], render: Callable[[Message], Any]
) -> Iterator[str]:
    yield f'{{"{openai.MESSAGES}":['
    between = ""
    for message in messages:
        if _source_mark(message) == HOLDS_CONVERSATION:
            fields = fields | _held_fields(message)
            continue
        yield between + readable_json(render(message))
        between = ","
    yield "]"
    if fields:
        yield "," + readable_json(fields)[1:-1]
    yield "}"


def _source_mark(message: Message) -> object:
    return source_of(message.meta).get(HOLDS)


def _held(message: Message) -> Any:
    try:
        return json.loads(source_of(message.meta).get("original", message.content))
    except (TypeError, ValueError, RecursionError):
        return None  # somebody else's mark


def _held_fields(message: Message) -> dict[str, Any]:
    fields = _held(message)
    return fields if isinstance(fields, dict) else {}


def _original(message: Message) -> Any:
    return openai.original_message(message.role, message.content, message.meta)


def _fields(session: Session) -> dict[str, Any]:
    """What to say of a conversation that OpenAI's format never saw: its id, and tools."""
    meta = session.meta or {}
    own = source_of(meta).get("id", session.name)
    fields = {} if own is None else {"id": own}
    return fields | {name: meta[name] for name in CONVERSATION_FIELDS if name in meta}


def _rendered(message: Message) -> dict[str, Any]:
    meta = message.meta or {}
    fields: dict[str, Any] = {name: meta[name] for name in MESSAGE_FIELDS if name in meta}
    content: str | None = message.content
    if _source_mark(message) == HOLDS_MESSAGE:
        content = _text_of(message)
    if not content and ("tool_calls" in fields or "function_call" in fields):
        content = None  # as OpenAI writes it
    return {"role": message.role, "content": content, **fields}


def _text_of(message: Message) -> str:
    """The text of a foreign message that had to be stored whole."""
    original = _held(message)
    keys = (sharegpt.SHAPE.content_key, openai.SHAPE.content_key, "text")
    texts = (
        [original[key] for key in keys if isinstance(original.get(key), str)]
        if isinstance(original, dict)
        else []
    )
    return texts[0] if texts else message.content
