"""ShareGPT: `{"id", "conversations": [{"from": "human", "value": ...}, ...], ...}`."""

from __future__ import annotations

from typing import Any, Final

from armin.importers.chat_conversation import chat_conversation
from armin.importers.chat_message import Shape, from_armin
from armin.importers.conversation import Conversation
from armin.importers.fitting import Meta
from armin.importers.json_text import Value

SHAREGPT: Final = "sharegpt"
CONVERSATIONS: Final = "conversations"

SHAPE: Final = Shape(
    "from",
    "value",
    {
        **dict.fromkeys(("human", "user", "prompter"), "user"),
        **dict.fromkeys(
            ("gpt", "assistant", "chatgpt", "model", "bot", "bing", "bard", "claude"), "assistant"
        ),
        "function_call": "assistant",
        "system": "system",
        **dict.fromkeys(("tool", "function", "function_response", "observation"), "tool"),
    },
    {"user": "human", "assistant": "gpt", "system": "system", "tool": "tool"},
)


def conversation(found: Value, file: str | None) -> Conversation:
    """What `chat_conversation` says, for this format."""
    return chat_conversation(SHAREGPT, SHAPE, CONVERSATIONS, found, file)


def original_message(role: str, content: str, meta: Meta | None) -> Any:
    """The message of a ShareGPT import as it was: equal JSON."""
    return from_armin(SHAPE, role, content, meta)
