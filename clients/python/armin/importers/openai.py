"""OpenAI's chat format: `{"messages": [{"role", "content", ...}, ...], ...}`."""

from __future__ import annotations

from typing import Any, Final

from armin.importers.chat_conversation import chat_conversation
from armin.importers.chat_message import Shape, from_armin
from armin.importers.conversation import Conversation
from armin.importers.fitting import Meta
from armin.importers.json_text import Value

OPENAI: Final = "openai"
MESSAGES: Final = "messages"

SHAPE: Final = Shape(
    "role",
    "content",
    {
        "user": "user",
        "assistant": "assistant",
        "system": "system",
        "developer": "system",
        "tool": "tool",
        "function": "tool",
    },
    {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"},
)


def conversation(found: Value, file: str | None) -> Conversation:
    """What `chat_conversation` says, for this format."""
    return chat_conversation(OPENAI, SHAPE, MESSAGES, found, file)


def original_message(role: str, content: str, meta: Meta | None) -> Any:
    """The message of an OpenAI import as it was: equal JSON."""
    return from_armin(SHAPE, role, content, meta)
