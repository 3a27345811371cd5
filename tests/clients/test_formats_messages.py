"""Foreign messages and conversations in Armin and back: nothing is lost, and Armin's limits are kept."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armin.importers import chat_message, chitchat, openai, sharegpt
from armin.importers.byte_source import ByteSource
from armin.importers.conversation import Conversation, Rejected, session_name, source_of
from armin.importers.detect import detect
from armin.importers.fitting import META_BYTES_MAX, weigh
from armin.importers.json_text import Value
from armin.importers.outcome import Problem
from armin.importers.reading import read_conversations
from armin.results import NewMessage
from armin_engine import checks
from armin_engine.errors import BadRequest, TooLarge

TRANSCRIPTS = Path(__file__).parent / "transcripts"

KEYS = st.sampled_from(
    [
        "role",
        "content",
        "name",
        "tool_calls",
        "source",
        "id",
        "created_at",
        "refusal",
        "type",
        "text",
        "length",
    ]
) | st.text(st.characters(exclude_categories=()), max_size=4)
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "developer", "function", "human", "gpt", ""])
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | TEXT | ROLES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT | JSON})
    | st.dictionaries(st.sampled_from(["type", "text", "length", "image_url"]), JSON)
    | JSON,
    max_size=4,
)


def messages(role_key: str, content_key: str) -> st.SearchStrategy[Any]:
    likely = st.fixed_dictionaries(
        {role_key: ROLES, content_key: TEXT | PARTS | st.none()},
        optional={
            "source": JSON,
            "name": JSON,
            "tool_calls": JSON,
            "id": JSON,
            "created_at": JSON,
            "x": JSON,
        },
    )
    return likely | st.dictionaries(KEYS | st.just(role_key) | st.just(content_key), JSON, max_size=6) | JSON


def parsed(value: Any) -> Any:
    """As it comes out of a file: two surrogates side by side become one character."""
    return json.loads(json.dumps(value))


def same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def check_taken_by_the_engine(message: NewMessage) -> None:
    """The engine's own check, the one that a write goes through."""
    checks.new_message(message.role, message.content, message.meta)


@given(messages("role", "content").map(parsed))
def test_any_openai_message_comes_back_equal(original: Any) -> None:
    message = chat_message.to_armin(openai.SHAPE, original)
    check_taken_by_the_engine(message)
    assert same(openai.original_message(message.role, message.content, message.meta), original)


@given(messages("from", "value").map(parsed))
def test_any_sharegpt_message_comes_back_equal(original: Any) -> None:
    message = chat_message.to_armin(sharegpt.SHAPE, original)
    check_taken_by_the_engine(message)
    assert same(sharegpt.original_message(message.role, message.content, message.meta), original)


def to_armin(**original: Any) -> NewMessage:
    message = chat_message.to_armin(openai.SHAPE, original)
    check_taken_by_the_engine(message)
    assert same(openai.original_message(message.role, message.content, message.meta), original)
    return message


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


# --- what a person sees ---------------------------------------------------------------------------


def test_plain_message_needs_no_meta() -> None:
    assert to_armin(role="user", content="hello") == NewMessage("user", "hello", None)


def test_null_content_with_tool_calls_is_an_empty_text() -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = to_armin(role="assistant", content=None, tool_calls=calls)
    assert (message.role, message.content) == ("assistant", "")
    assert message.meta == {"source": {"content": "null"}, "tool_calls": calls}


def test_missing_content_is_told_from_null_and_from_empty() -> None:
    metas = [
        to_armin(role="assistant", x=1, **content).meta
        for content in ({}, {"content": None}, {"content": ""})
    ]
    assert metas[0] != metas[1] != metas[2] != metas[0]


@pytest.mark.parametrize(
    ("original", "role"), [("developer", "system"), ("function", "tool"), ("critic", "user")]
)
def test_role_that_armin_lacks_is_mapped_and_kept(original: str, role: str) -> None:
    message = to_armin(role=original, content="x")
    assert message.role == role
    assert source_of(message.meta)["role"] == original


def test_text_of_parts_is_readable_and_not_stored_twice() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    message = to_armin(
        role="user", content=[{"type": "text", "text": "look 👀"}, picture, {"type": "text", "text": "well?"}]
    )
    assert message.content == "look 👀\nwell?"
    assert "look" not in json.dumps(message.meta)


def test_ids_and_times_stand_under_source_and_other_fields_beside_it() -> None:
    message = to_armin(role="user", content="x", id="m1", created_at=1.5e9, name="ada")
    assert message.meta == {"source": {"id": "m1", "created_at": 1.5e9}, "name": "ada"}


def test_field_called_source_keeps_the_text_readable() -> None:
    assert to_armin(role="user", content="hello", source="web").content == "hello"


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {"name": "\udc00"},
        {"\ud800": 1},
        {"big": 2**63},
        {"big": -(2**63) - 1},
        {"nan": float("nan")},
        {"inf": float("-inf")},
        {"deep": nested(16)},
        {"content": "", "big": 2**64},
        {"content": "long " * 10_000, "big": 2**64},
        {"role": None},
        {"role": 3},
    ],
)
def test_text_stays_readable_where_its_other_fields_do_not_fit(extra: dict[str, Any]) -> None:
    original = {"role": "assistant", "content": "text", **extra}
    message = to_armin(**original)
    assert message.content == original["content"]
    assert message.meta is not None
    assert message.meta["source"]["holds"] == "message"
    assert same(json.loads(message.meta["source"]["original"]), original)


@pytest.mark.parametrize(
    "extra",
    [
        {"content": "half \ud83d"},
        {"content": "long " * 20_000, "big": 2**64},
        {"tool_calls": "x" * META_BYTES_MAX},
        {"content": [{"type": "image_url", "image_url": {"url": "data:," + "A" * 70_000}}]},
        {"content": 42},
        {"content": {"a": 1}},
        {"content": [{"type": "text", "text": "a", "length": 1}]},
    ],
)
def test_what_does_not_fit_is_stored_whole_as_json_text(extra: dict[str, Any]) -> None:
    original = {"role": "assistant", "content": "text", **extra}
    message = to_armin(**original)
    assert message.meta == {"source": {"holds": "message"}}
    assert same(json.loads(message.content), original)


@pytest.mark.parametrize(
    "extra",
    [
        {"big": 2**63 - 1},
        {"small": -(2**63)},
        {"deep": nested(15)},
        {"tool_calls": "x" * (META_BYTES_MAX - len('{"tool_calls":""}'))},
        {"content": "nul \0, bell \a, delete \x7f, separator \u2028, noncharacter \uffff"},
        {"content": "long " * 20_000},
        {"float": 1.0, "one": 1, "yes": True, "none": None},
        {"content": ""},
    ],
)
def test_what_just_fits_is_stored_readably(extra: dict[str, Any]) -> None:
    message = to_armin(**{"role": "user", "content": "text", **extra})
    assert message.content == extra.get("content", "text")


def test_message_over_the_content_limit_is_rejected_naming_message_and_limit() -> None:
    huge = {"role": "user", "content": "x" * (16 << 20) + "x"}
    value = Value(4, "line 4", None, {"messages": [{"role": "user", "content": "ok"}, huge]})
    with pytest.raises(Rejected, match=r"message 2: .* 16 MiB"):
        openai.conversation(value, None)


def test_somebody_elses_mark_on_a_message_does_no_harm() -> None:
    for source in ({}, {"original": "no json either"}, {"original": 7}):
        mark = {"source": {"holds": "message", **source}}
        assert openai.original_message("user", "no json", mark) == {"role": "user", "content": "no json"}


@given(st.dictionaries(st.text(max_size=5), JSON.filter(lambda value: value is not None), max_size=5), TEXT)
def test_a_message_weighs_no_less_than_the_engine_says(meta: dict[str, Any], content: str) -> None:
    try:
        size = checks.new_message("user", content, meta).size
    except (BadRequest, TooLarge):
        return
    assert weigh(NewMessage("user", content, meta))[0] >= size


# --- conversations --------------------------------------------------------------------------------


def conversations(name: str) -> list[Conversation]:
    with (TRANSCRIPTS / name).open("rb") as file:
        source = ByteSource(file)
        found = list(read_conversations(source, detect(source), name))
    assert not [item for item in found if isinstance(item, Problem)]
    return [item for item in found if isinstance(item, Conversation)]


@pytest.mark.parametrize("name", ["openai.jsonl", "sharegpt.json", "chitchat.json"])
def test_every_transcript_is_taken_by_the_engine(name: str) -> None:
    for conversation in conversations(name):
        checks.check_name(conversation.name)
        checks.check_meta(conversation.meta)
        for message in conversation.messages:
            check_taken_by_the_engine(message)


def test_sharegpt_roles() -> None:
    roles = [
        [message.role for message in conversation.messages] for conversation in conversations("sharegpt.json")
    ]
    assert roles[0] == ["user", "assistant", "user", "assistant"]
    assert roles[1] == ["system", "user", "assistant", "tool", "assistant", "user"]


def test_chitchat_first_speaker_is_the_user_and_utterances_stay_apart() -> None:
    first, second = conversations("chitchat.json")
    assert list(first.messages) == [
        NewMessage("user", "Hello", {"source": {"sender": "ann", "created_at": "2018-05-02T19:38:15Z"}}),
        NewMessage(
            "user", "How are you?", {"source": {"sender": "ann", "created_at": "2018-05-02T19:38:20Z"}}
        ),
        NewMessage(
            "assistant", "fine — you?", {"source": {"sender": "bob", "created_at": "2018-05-02T19:38:29Z"}}
        ),
        NewMessage("user", "fine", {"source": {"sender": "ann", "created_at": "2018-05-02T19:39:21Z"}}),
    ]
    assert first.meta is not None
    assert first.meta["source"]["id"] == "a07edb12-6b91-4138-b11e-02421888d699"
    assert (first.meta["prompt"], first.meta["ratings"]) == ("Say hello.", {"witty": 10})
    assert second.name.startswith("chitchat:b17edb12-6b91-4138-b11e-02421888d699:")


@pytest.mark.parametrize("value", [None, 1, [], {}, {"messages": {}}, {"messages": "x"}])
def test_value_that_is_no_conversation_is_rejected(value: Any) -> None:
    with pytest.raises(Rejected, match="messages"):
        openai.conversation(Value(1, "line 1", None, value), None)
    with pytest.raises(Rejected, match="messages"):
        chitchat.conversation(Value(1, "item 1", "id", value), None)


def test_top_level_keys_over_the_meta_limit_become_a_message_of_their_own() -> None:
    tools = [{"name": "x" * META_BYTES_MAX}]
    value = {"messages": [{"role": "user", "content": "hi"}], "tools": tools, "id": "c1"}
    conversation = openai.conversation(Value(1, "line 1", None, value), None)
    checks.check_meta(conversation.meta)
    lead, message = conversation.messages
    assert source_of(lead.meta) == {"holds": "conversation"}
    assert json.loads(lead.content) == {"tools": tools, "id": "c1"}
    assert message.content == "hi"


@pytest.mark.parametrize("left", [0, 10, 500, 1000, 2000, 3000])
def test_messages_of_a_conversation_do_not_depend_on_the_file_it_is_found_in(left: int) -> None:
    value = {"messages": [], "x": "y" * (META_BYTES_MAX - left)}
    made = [
        openai.conversation(Value(index, f"line {index}", None, value), file)
        for index, file in ((1, None), (999_999_999, "\x01" * 300), (2, "😀" * 300))
    ]
    for conversation in made:
        checks.check_meta(conversation.meta)
    assert len({len(list(conversation.messages)) for conversation in made}) == 1


# --- names ----------------------------------------------------------------------------------------


def name_of(own_id: Any, index: int = 7, value: Any = None) -> str:
    return session_name("openai", Value(index, f"line {index}", None, value), own_id)


def test_name_is_format_id_and_digest() -> None:
    assert name_of("abc").startswith("openai:abc:")
    assert name_of(17).startswith("openai:17:")
    assert len(name_of("abc")) == len("openai:abc:") + 16


@pytest.mark.parametrize("own_id", [None, "", True, 1.5, {}, []])
def test_name_has_the_place_where_there_is_no_id(own_id: Any) -> None:
    assert name_of(own_id, index=7).startswith("openai:7:")


def test_name_changes_with_the_conversation_alone() -> None:
    assert name_of("a", 1, {"x": 1, "y": 2}) == name_of("a", 99, {"y": 2, "x": 1})
    assert name_of("a", 1, {"x": 1}) != name_of("a", 1, {"x": 1.0})


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_any_id_makes_a_valid_name(own_id: str) -> None:
    checks.check_name(name_of(own_id))
    checks.check_name(name_of(own_id * 7))


def test_long_ids_that_begin_alike_make_different_names() -> None:
    assert name_of("é" * 1000 + "a") != name_of("é" * 1000 + "b")


def test_control_characters_do_not_get_into_names() -> None:
    assert name_of("a\nb\x1b[0m").startswith("openai:a_b_[0m:")


def test_reading_is_from_memory_only_one_conversation_at_a_time() -> None:
    class Endless(io.RawIOBase):
        """A stream without end: whoever collects before giving never gives."""

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return b'{"messages": [{"role": "user", "content": "' + string.ascii_letters.encode() + b'"}]}\n'

    source = ByteSource(Endless())
    found = read_conversations(source, detect(source))
    assert isinstance(next(found), Conversation)
    assert isinstance(next(found), Conversation)
