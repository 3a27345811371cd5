"""What can be said, what cannot, and that it comes back as it was: at once, and after a restart."""

from __future__ import annotations

import enum
import json
import math
import random
from collections import OrderedDict

import msgpack
import pytest

from armin_engine import Armin, BadRequest, TooLarge, limits
from armin_engine.records import check_meta, new_message
from engine.observe import messages

TEXTS = {
    "empty": "",
    "space": " ",
    "NUL": "\0",
    "NUL within": "a\0b\0",
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "newlines": "a\r\nb\rc\nd\u2028e\u2029f",
    "quotes": "'; DROP TABLE messages; --\"\\",
    "Latin": "naïve café Ærøskøbing ŁÓDŹ",
    "Greek and Cyrillic": "Ελληνικά и кириллица",
    "Arabic and Hebrew": "العربية עברית \u202e rtl \u202c",
    "Indic": "हिन्दी বাংলা தமிழ் తెలుగు",
    "East Asian": "漢字 かな 한국어 𠮷野家",
    "Thai, Tibetan, Georgian, Amharic": "ไทย བོད་སྐད ქართული አማርኛ",
    "old scripts": "𐎠𐎡𐎢 𓀀𓀁 𒀀𒀁 ᚠᚡ",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🇺🇳👍🏽",
    "combining": "e\u0301 vs é Z̷̡̛a̴l̶g̵o̸",
    "unassigned and private": "\ue000\U000f0000\U0010ffff\ufffe\uffff",
    "BOM": "\ufeffx",
    "surrogates' neighbours": "\ud7ff\ue000",
    "long ASCII": "x" * 300_000,
    "long non-ASCII": "é" * 300_000,
}


def back(armin: Armin, open_engine, session_id: int = 1):
    """A session's messages now, in the snapshot, and after a restart."""
    yield messages(armin, session_id)
    armin.refresh_snapshot()
    yield messages(armin, session_id)
    armin.close()
    again = open_engine()
    yield messages(again, session_id)
    assert again.verify().equal


def test_content_of_every_kind_comes_back(open_engine):
    armin = open_engine()
    armin.create_session()
    for text in TEXTS.values():
        armin.append(1, "user", text)
    for found in back(armin, open_engine):
        assert [message.content for message in found] == list(TEXTS.values())


def test_every_code_point_comes_back(open_engine):
    armin = open_engine()
    armin.create_session()
    text = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    armin.append(1, "user", text)
    for found in back(armin, open_engine):
        assert found[0].content == text


def test_names_of_every_kind_come_back(open_engine):
    armin = open_engine()
    names = [text for text in TEXTS.values() if 0 < len(text.encode()) <= limits.NAME_BYTES_MAX]
    assert len(names) > 10
    for name in names:
        armin.create_session(name)
    armin.close()
    again = open_engine()
    for number, name in enumerate(names, start=1):
        assert again.session(name=name).id == number
        assert again.session(number).name == name
        assert again.create_session(name).duplicate
    assert again.verify().equal


def test_names_are_compared_exactly(armin: Armin):
    for number, name in enumerate(["a", "A", "a ", " a", "a\0", "é", "e\u0301", "ﬀ", "ff"], start=1):
        created = armin.create_session(name)
        assert (created.session.id, created.duplicate) == (number, False)


@pytest.mark.parametrize("name", ["", b"n", 7, True, "\ud800", "x" * 513, "é" * 257, ["n"]])
def test_a_name_out_of_bounds_is_refused(armin: Armin, name):
    with pytest.raises((BadRequest, TooLarge)) as caught:
        armin.create_session(name)
    assert caught.value.field == "name"
    assert armin.position == 0


def test_a_name_may_be_as_long_as_the_limit(armin: Armin):
    for name in ("x" * limits.NAME_BYTES_MAX, "é" * (limits.NAME_BYTES_MAX // 2)):
        assert armin.session(name=armin.create_session(name).session.name).name == name


def test_the_four_roles_come_back(open_engine):
    armin = open_engine()
    armin.create_session()
    for role in ("user", "assistant", "system", "tool"):
        armin.append(1, role, "x")
    for found in back(armin, open_engine):
        assert [message.role for message in found] == ["user", "assistant", "system", "tool"]


class Role(enum.StrEnum):
    USER = "user"


@pytest.mark.parametrize("role", ["", "User", "developer", 0, None, b"user", ["user"], Role.USER, True])
def test_another_role_is_refused(armin: Armin, role):
    armin.create_session()
    with pytest.raises(BadRequest, match="user, assistant, system, tool") as caught:
        armin.append(1, role, "x")
    assert caught.value.field == "role"


@pytest.mark.parametrize(
    "content", [None, b"x", 1, 1.5, True, ["x"], {"a": 1}, "\ud800", "ok\udfff", "\udc80x"]
)
def test_content_that_is_no_text_is_refused(armin: Armin, content):
    armin.create_session()
    with pytest.raises(BadRequest) as caught:
        armin.append(1, "user", content)
    assert caught.value.field == "content"
    assert armin.position == 1


@pytest.mark.parametrize("unit", ["x", "é", "𐍈"])
def test_content_may_be_as_long_as_the_limit_and_no_longer(open_engine, unit):
    armin = open_engine()
    armin.create_session()
    text = unit * (limits.CONTENT_BYTES_MAX // len(unit.encode()))
    assert len(text.encode()) == 16 << 20
    with pytest.raises(TooLarge) as caught:
        armin.append(1, "user", text + "x")
    assert (caught.value.field, caught.value.limit) == ("content", 16 << 20)
    assert armin.append(1, "user", text).first_id == 1
    page = armin.read(1)
    assert page.count == 1
    assert page.messages[0].content == text
    armin.close()
    assert messages(open_engine(), 1)[0].content == text


# --- meta ---

METAS = [
    {},
    {"a": None, "b": True, "c": False},
    {"int": 1, "float": 1.0, "bool": True, "zero": 0, "minus zero": -0.0, "false": False},
    {"min": -(2**63), "max": 2**63 - 1},
    {"tiny": 5e-324, "huge": 1.7976931348623157e308, "third": 1 / 3, "e": 1e22, "big": 1e16, "0.1": 0.1},
    {"z": 1, "a": 2, "m": {"y": 1, "b": 2}, "": 3},
    {"list": [], "map": {}, "nested": [[[{}]], [None, [1.5, "x", {"k": []}]]]},
    {"text": '\0\x1f\u2028\ud7ff漢字🦊"\\/', "\0key\n🦊": "v"},
    {"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
    {str(number): number for number in range(1000)},
]


def exactly(value) -> str:
    """A value with its types and its order told apart: 1, 1.0 and True are three."""
    if type(value) is dict:
        return "{" + ",".join(f"{exactly(k)}:{exactly(v)}" for k, v in value.items()) + "}"
    if type(value) is list:
        return "[" + ",".join(map(exactly, value)) + "]"
    return f"{type(value).__name__}({value!r})"


def test_meta_comes_back_with_its_types_and_order(open_engine):
    armin = open_engine()
    for number, meta in enumerate(METAS):
        armin.create_session(f"s{number}", meta)
        armin.append(1, "user", str(number), meta)
    for found in back(armin, open_engine):
        assert [exactly(message.meta) for message in found] == [exactly(meta) for meta in METAS]


def test_meta_of_sessions_comes_back_with_its_types_and_order(open_engine):
    armin = open_engine()
    for meta in METAS:
        armin.create_session(None, meta)
    armin.close()
    again = open_engine()
    for number, meta in enumerate(METAS, start=1):
        assert exactly(again.session(number).meta) == exactly(meta)
        assert exactly(again.events(after=number - 1, limit=1).events[0].unpack()["meta"]) == exactly(meta)


def test_random_metas_come_back(open_engine):
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)

    def value(depth: int):
        kinds = ["int", "float", "str", "bool", "none"] + ["list", "map"] * (depth < 8)
        match chance.choice(kinds):
            case "int":
                return chance.choice([chance.randint(-(2**63), 2**63 - 1), chance.randint(-300, 300)])
            case "float":
                while not math.isfinite(number := _random_float(chance)):
                    pass
                return number
            case "str":
                return chance.choice(list(TEXTS.values())[:19])
            case "bool":
                return chance.random() < 0.5
            case "list":
                return [value(depth + 1) for _ in range(chance.randint(0, 3))]
            case "map":
                return {f"{chance.randint(0, 99)}": value(depth + 1) for _ in range(chance.randint(0, 3))}
        return None

    metas = [{"v": value(2), "w": value(2)} for _ in range(300)]
    armin = open_engine()
    armin.create_session()
    armin.append_many(1, [{"role": "tool", "content": "", "meta": meta} for meta in metas])
    for found in back(armin, open_engine):
        assert [exactly(message.meta) for message in found] == [exactly(meta) for meta in metas]


def _random_float(chance: random.Random) -> float:
    import struct

    return float(struct.unpack("d", chance.randbytes(8))[0])


def test_no_meta_and_an_empty_meta_are_two_things(open_engine):
    armin = open_engine()
    armin.create_session()
    armin.append(1, "user", "x", {})
    armin.append(1, "user", "x")
    for found in back(armin, open_engine):
        assert [message.meta for message in found] == [{}, None]


def test_a_session_without_meta_and_one_with_an_empty_meta_are_two_things(open_engine):
    armin = open_engine()
    armin.create_session(None, {})
    armin.create_session()
    assert [session.meta for session in armin.sessions().sessions] == [{}, None]
    armin.close()
    assert [session.meta for session in open_engine().sessions().sessions] == [{}, None]


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_meta_may_be_as_deep_as_the_limit_and_no_deeper(armin: Armin):
    armin.create_session()
    armin.append(1, "user", "x", nested(16))
    armin.append(1, "user", "x", {"a": json.loads("[" * 15 + "1" + "]" * 15)})
    for meta in (nested(17), {"a": json.loads("[" * 16 + "]" * 16)}, nested(900)):
        with pytest.raises(TooLarge) as caught:
            armin.append(1, "user", "x", meta)
        assert (caught.value.field, caught.value.limit) == ("meta", 16)
    assert messages(armin, 1)[0].meta == nested(16)


@pytest.mark.parametrize("filler", ["x", "é", "\n", '"'])
def test_meta_may_be_as_long_as_the_limit_and_no_longer(open_engine, filler):
    width = len(json.dumps(filler, ensure_ascii=False).encode()) - 2
    room = limits.META_BYTES_MAX - len('{"k":""}')
    text = filler * (room // width) + "x" * (room % width)
    armin = open_engine()
    armin.create_session()
    armin.append(1, "user", "", {"k": text})
    for meta in ({"k": text + "x"}, {"kk": text}, {"k": text, "l": 1}):
        with pytest.raises(TooLarge) as caught:
            armin.append(1, "user", "", meta)
        assert (caught.value.field, caught.value.limit) == ("meta", 64 << 10)
    for found in back(armin, open_engine):
        assert [message.meta for message in found] == [{"k": text}]


def test_a_meta_that_repeats_itself_without_end_is_refused_at_once():
    layer: list = ["x"] * 1000
    for _ in range(12):
        layer = [layer] * 1000
    with pytest.raises(TooLarge):
        check_meta({"a": layer})
    itself: dict = {}
    itself["a"] = itself
    with pytest.raises(TooLarge):
        check_meta(itself)


@pytest.mark.parametrize(
    "meta",
    [
        [],
        "x",
        1,
        OrderedDict(a=1),
        {1: "x"},
        {None: 1},
        {b"k": 1},
        {True: 1},
        {"a": {1: 2}},
        {"a": [{2.0: 1}]},
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": -math.inf},
        {"a": 2**63},
        {"a": -(2**63) - 1},
        {"a": 10**400},
        {"a": b"bytes"},
        {"a": (1, 2)},
        {"a": {1, 2}},
        {"a": object},
        {"a": msgpack.ExtType(1, b"x")},
        {"a": msgpack.Timestamp(1)},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": [{"b": "x\udc00"}]},
        {Role.USER: 1},
        {"a": Role.USER},
        {"a": 1j},
    ],
    ids=repr,
)
def test_what_json_cannot_say_is_refused(armin: Armin, meta):
    armin.create_session()
    for call in (
        lambda: armin.append(1, "user", "x", meta),
        lambda: armin.create_session(None, meta),
        lambda: armin.append_many(1, [{"role": "user", "content": "x", "meta": meta}]),
    ):
        with pytest.raises(BadRequest) as caught:
            call()
        assert caught.value.field in ("meta", "messages[0].meta")
        str(caught.value).encode()  # what goes over the wire can be encoded
    assert armin.position == 1


# --- batches ---


def test_a_batch_is_all_or_nothing(armin: Armin):
    armin.create_session()
    good = {"role": "user", "content": "x"}
    with pytest.raises(BadRequest) as caught:
        armin.append_many(1, [good, good, {"role": "user", "content": 7}])
    assert caught.value.field == "messages[2].content"
    assert armin.position == 1
    assert armin.append_many(1, [good] * 3).count == 3


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [7],
        ["x"],
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": "x", "extra": 1}],
        [{"role": "user", "content": "x", "\ud800" * 10: 1}],
        [{"role": "user", "content": "x", "k" * 10_000_000: 1}],
        [{"role": "user", "content": "x", 7: 1}],
        {"role": "user", "content": "x"},
        "messages",
        None,
        7,
        iter([{"role": "user", "content": "x"}]),
    ],
    ids=range(14),
)
def test_a_batch_of_the_wrong_shape_is_refused(armin: Armin, wrong):
    armin.create_session()
    with pytest.raises(BadRequest) as caught:
        armin.append_many(1, wrong)
    assert caught.value.field.startswith("messages")
    assert len(str(caught.value).encode()) < 1000
    assert armin.position == 1


def test_a_batch_may_be_as_large_as_its_limits_and_no_larger(armin: Armin):
    armin.create_session()
    one = {"role": "user", "content": "x"}
    assert armin.append_many(1, [one] * limits.BATCH_MESSAGES_MAX).count == 10_000
    with pytest.raises(TooLarge) as caught:
        armin.append_many(1, [one] * (limits.BATCH_MESSAGES_MAX + 1))
    assert caught.value.limit == 10_000
    half = {"role": "user", "content": "x" * (limits.BATCH_BYTES_MAX // 2)}
    assert armin.append_many(1, [half, half]).count == 2
    with pytest.raises(TooLarge) as caught:
        armin.append_many(1, [half, half, one])
    assert caught.value.limit == 16 << 20


# --- elision ---


def event_of(armin: Armin, content: str, meta: dict | None = None) -> dict:
    position = armin.append(1, "assistant", content, meta).first_at
    return armin.event(position).unpack()["message"]


@pytest.mark.parametrize("unit", ["x", "é"])
def test_an_event_is_elided_right_above_the_limit(armin: Armin, unit):
    armin.create_session()
    whole = unit * (limits.EVENT_BYTES_MAX // len(unit.encode()))
    message = event_of(armin, whole)
    assert message["content"] == whole
    assert "elided" not in message
    over = event_of(armin, whole + "y")
    assert over == {
        "id": 2,
        "session_id": 1,
        "seq": 2,
        "role": "assistant",
        "created_at": over["created_at"],
        "elided": True,
    }
    assert messages(armin, 1)[1].content == whole + "y"


def test_packed_meta_counts_for_elision(armin: Armin):
    armin.create_session()
    meta = {"k": "v" * 100, "n": 1}
    weight = len(msgpack.packb(meta))
    whole = event_of(armin, "x" * (limits.EVENT_BYTES_MAX - weight), meta)
    assert whole["meta"] == meta
    over = event_of(armin, "x" * (limits.EVENT_BYTES_MAX - weight + 1), meta)
    assert over["elided"] is True
    assert {"content", "meta"}.isdisjoint(over)
    assert messages(armin, 1)[1].meta == meta


@pytest.mark.parametrize("extra", [-200, -128, -100, -1, 0, 1, 100, 128, 129, 200, 5000])
def test_elision_follows_content_and_meta_whatever_the_frame_around_them(open_engine, extra):
    armin = open_engine(":memory:", clock=lambda: 2**40)
    armin.create_session()
    message = event_of(armin, "x" * (limits.EVENT_BYTES_MAX + extra))
    assert ("elided" in message) == (extra > 0)


def test_live_and_log_elide_alike(armin: Armin):
    armin.create_session()
    subscription = armin.live.subscribe()
    armin.append(1, "user", "x" * 100_000)
    armin.append(1, "user", "small")
    assert list(subscription) == list(armin.events(after=1).events)


def test_a_message_weighs_its_content_and_its_packed_meta():
    message = new_message("user", "é", {"a": 1})
    assert message.size == 2 + len(msgpack.packb({"a": 1}))
