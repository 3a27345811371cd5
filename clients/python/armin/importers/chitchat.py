"""The chitchat-dataset: `{ID: {"messages": [[{"text", "timestamp", "sender"}, ...], ...], ...}, ...}`.

Whoever speaks first is the user, the other one the assistant. A turn is a list of utterances; each
becomes a message. Its sender and time stand under meta.source, as `sender` and `created_at`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from armin.importers.conversation import (
    HOLDS_MESSAGE,
    Conversation,
    Rejected,
    held,
    session_head,
    session_name,
)
from armin.importers.fitting import fits
from armin.importers.json_text import Value
from armin.results import NewMessage

CHITCHAT: Final = "chitchat"


def conversation(found: Value, file: str | None) -> Conversation:
    """The conversation in `found`, a member of the data set's object.

    Raises:
        Rejected: it is not of this shape, or Armin cannot hold it.
    """
    value = found.value
    if found.key is None or not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise Rejected("it is no object with a list `messages` of lists of utterances")
    fields: dict[str, Any] = {key: field for key, field in value.items() if key not in ("messages", "start")}
    if "start" in value:
        fields["created_at"] = value["start"]
    fields["id"] = found.key
    meta, lead = session_head(CHITCHAT, found, fields, file)
    messages = lead + list(_messages(value["messages"]))
    name = session_name(CHITCHAT, found, found.key)
    return Conversation(found.index, found.place, name, meta, messages, len(messages))


def _messages(turns: list[Any]) -> Iterator[NewMessage]:
    utterances = [utterance for turn in turns for utterance in (turn if isinstance(turn, list) else [turn])]
    first = _sender(utterances[0]) if utterances else None
    for utterance in utterances:
        role = "user" if _sender(utterance) == first else "assistant"
        message = _readable(role, utterance)
        fit = message is not None and fits(message)
        yield message if message is not None and fit else held(HOLDS_MESSAGE, role, utterance)


def _sender(utterance: object) -> object:
    return utterance.get("sender") if isinstance(utterance, dict) else None


def _readable(role: str, utterance: object) -> NewMessage | None:
    if not isinstance(utterance, dict) or not isinstance(utterance.get("text"), str):
        return None
    source = {name: value for name, value in utterance.items() if name not in ("text", "timestamp")}
    if "timestamp" in utterance:
        source["created_at"] = utterance["timestamp"]
    return NewMessage(role, utterance["text"], {"source": source} if source else None)
