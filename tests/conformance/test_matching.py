"""Placeholders: what they stand for, what they match, and how they go over the wire."""

from __future__ import annotations

import json
import re
from typing import Any

import msgpack
import pytest

from armin.conformance import cases, values
from armin.conformance.cases import VectorError
from armin.conformance.matching import _MATCHERS, ABSENT, differences
from armin.conformance.values import Scope, build, encode, frames

NOW_S = 1_700_000_000.0


def scope() -> Scope:
    found = Scope({"size": 10}, "run1c2", position=7, clock=lambda: NOW_S)
    found.bound.update(n=5, s="five")
    return found


@pytest.mark.parametrize(
    ("value", "built"),
    [
        ({"$ref": "n"}, 5),
        ({"$ref": "n", "plus": 2}, 7),
        ({"$ref": "s"}, "five"),
        ({"$position": 1}, 8),
        ({"$limit": "size"}, 10),
        ({"$limit": "size", "over": 3, "plus": -1}, 2),
        ({"$unique": "n"}, "run1c2n"),
        ({"$unique": "n", "bytes": {"$limit": "size"}}, "run1c2nxxx"),
        ({"$text": "ab", "times": 3}, "ababab"),
        ({"$text": "é", "bytes": 5}, "éé."),
        ({"$concat": ["a", {"$ref": "n"}, {"$ref": "s"}]}, "a5five"),
        ({"$list": {"k": {"$index": 3}}, "times": 2}, [{"k": 3}, {"k": 4}]),
        ({"$list": None, "times": 2}, [None, None]),
        ({"$nested": "map", "depth": 3}, {"k": {"k": {}}}),
        ({"$nested": "array", "depth": 2}, [[]]),
        ({"$int": "9223372036854775807"}, (1 << 63) - 1),
        ({"$float": "1.0"}, 1.0),
        ({"$bin": "00ff"}, b"\x00\xff"),
        ({"$literal": {"$ref": "n"}}, {"$ref": "n"}),
        ({"a": [{"$ref": "n"}]}, {"a": [5]}),
    ],
)
def test_a_placeholder_stands_for_a_value(value: Any, built: Any) -> None:
    found = build(value, scope())
    assert found == built
    assert type(found) is type(built)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"$ref": "unheard"}, "nothing is bound to unheard"),
        ({"$ref": "s", "plus": 1}, "can only concatenate str"),
        ({"$limit": "unheard"}, "the engine names no limit unheard"),
        ({"$nonsense": 1}, r"\$nonsense stands for no value"),
        ({"$any": True}, r"\$any stands for no value"),
        ({"$ref": "n", "$limit": "size"}, "a placeholder has one name"),
        ({"$list": 1, "times": "x"}, "'x' is not an integer"),
        ({"$text": "x", "often": 1}, "often"),
    ],
)
def test_a_placeholder_that_stands_for_nothing_is_named(value: Any, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        build(value, scope())


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (1, 1),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, {"a": 1}], [1, {"a": 1, "b": 2}]),
        ({"a": {"$absent": True}}, {"b": 1}),
        ({"a": None}, {"a": None}),
        ({"a": {"$any": True}}, {"a": None}),
        ({"$range": [1, {"$limit": "size"}]}, 10),
        ({"$range": [None, 3]}, -7),
        ({"$time": True}, int(NOW_S * 1000) + 5),
        ({"$type": "float"}, 1.0),
        ({"$match": "[0-9]+:[0-9a-f]+"}, "7:ff"),
        ({"$is": {"a": 1, "b": {"c": []}}}, {"a": 1, "b": {"c": []}}),
        ({"$each": {"$index": 4}, "count": 2}, [4, 5]),
        ({"$each": {"$any": True}, "count": {"$range": [0, 1]}}, []),
        ({"$list": {"k": 1}, "times": 2}, [{"k": 1, "more": 0}, {"k": 1}]),
        ({"$contains": [3, 1]}, [1, 2, 3]),
        ({"$one_of": [{"a": 1}, {"b": 2}]}, {"b": 2}),
        ({"$not": {"$ref": "n"}}, 6),
        ({"$float": "-0.0"}, -0.0),
    ],
)
def test_it_matches(expected: Any, got: Any) -> None:
    assert list(differences(expected, got, scope())) == []


@pytest.mark.parametrize(
    ("expected", "got", "path"),
    [
        (1, 1.0, "$"),
        (1, True, "$"),
        (True, 1, "$"),
        ("a", b"a", "$"),
        (None, ABSENT, "$"),
        ({"a": 1}, {}, "$.a"),
        ({"a": 1}, [], "$"),
        ([1], [1, 2], "$"),
        ([1], {"0": 1}, "$"),
        ([{"a": [1]}], [{"a": [2]}], "$[0].a[0]"),
        ({"a": {"$absent": True}}, {"a": None}, "$.a"),
        ({"a": {"$any": True}}, {}, "$.a"),
        ({"$range": [1, 9]}, 10, "$"),
        ({"$range": [1, 9]}, 0, "$"),
        ({"$range": [0, 9]}, True, "$"),
        ({"$range": [0, None]}, 1.5, "$"),
        ({"$time": True}, int(NOW_S), "$"),
        ({"$time": True}, NOW_S * 1000, "$"),
        ({"$type": "integer"}, True, "$"),
        ({"$match": "[0-9]"}, "12", "$"),
        ({"$match": "1"}, 1, "$"),
        ({"$is": {"a": 1}}, {"a": 1, "b": 2}, "$"),
        ({"$is": {"a": 1, "b": 2}}, {"b": 2, "a": 1}, "$"),
        ({"$is": [{"a": 1}]}, [{"a": 1.0}], "$"),
        ({"$each": {"$index": 1}}, [1, 3], "$[1]"),
        ({"$each": {"$any": True}, "count": 2}, [1], "$.length"),
        ({"$each": 1}, 1, "$"),
        ({"$list": 1, "times": 2}, [1], "$.length"),
        ({"$contains": [3]}, [1, 2], "$"),
        ({"$contains": [3]}, 3, "$"),
        ({"$one_of": [1, 2]}, 3, "$"),
        ({"$not": 1}, 1, "$"),
        ({"$not": 1}, ABSENT, "$"),
        ({"$bind": "x", "is": 1}, 2, "$"),
        ({"$bind": "x"}, ABSENT, "$"),
        ({"$float": "0.0"}, -0.0, "$"),
        ({"$ref": "n"}, 6, "$"),
    ],
)
def test_it_does_not_match_and_says_where(expected: Any, got: Any, path: str) -> None:
    found = list(differences(expected, got, scope()))
    assert [difference.path for difference in found] == [path]


def test_what_is_bound_can_be_referred_to_at_once() -> None:
    here = scope()
    assert list(differences([{"$bind": "x"}, {"$ref": "x", "plus": 1}], [3, 4], here)) == []
    assert here.bound["x"] == 3


@pytest.mark.parametrize(
    ("value", "hexadecimal"),
    [
        ({"op": "ping"}, "81a26f70a470696e67"),
        ({"$map": [["a", 1], ["a", 2]]}, "df00000002a16101a16102"),
        ({"$map": [[1, None]]}, "df0000000101c0"),
        ([{"$str": "eda080"}], "dd00000001db00000003eda080"),
        ({"k": {"$packed": "d40161"}}, "df00000001a16bd40161"),
        ({"n": {"$float": "1.0"}}, "81a16ecb3ff0000000000000"),
        ({"n": {"$int": "18446744073709551615"}}, "81a16ecfffffffffffffffff"),
    ],
)
def test_values_go_over_the_wire_as_they_are(value: Any, hexadecimal: str) -> None:
    assert encode(build(value, scope())).hex() == hexadecimal


def test_frames_are_built() -> None:
    built = frames(
        [
            "",
            "00ff",
            {"$fill": "61", "times": {"$limit": "size"}},
            {"$repeat": "62", "times": 2},
            {"$pack": {"n": {"$ref": "n"}}},
        ],
        scope(),
    )
    assert built == [b"", b"\x00\xff", b"a" * 10, b"b", b"b", msgpack.packb({"n": 5})]
    with pytest.raises(VectorError, match="is no frame"):
        frames([{"$ref": "n"}], scope())


# --- the document beside the vectors ----------------------------------------------------------------

README = (cases.default_directory() / "README.md").read_text("utf-8")


def test_the_example_of_the_readme_is_one(tmp_path: Any) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    (tmp_path / "example.json").write_text(example, "utf-8")
    (case,) = cases.load(tmp_path).engine
    assert (case.id, case.steps[0].send) == ("example/ping_answers", {"op": "ping"})
    assert json.loads(example)["cases"][0]["steps"][0]["events"] == []


def test_the_readme_names_every_placeholder_and_field() -> None:
    placeholders = {*values._BUILDERS, *_MATCHERS, *values.FRAMES}
    assert set(re.findall(r'"(\$[a-z_]+)"', README)) == placeholders
    for name in (*cases._STEP_FIELDS, *cases.NEEDS, *cases.CONTROLS):
        assert f"`{name}`" in README, name
