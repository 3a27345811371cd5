"""The files themselves: their form, their names, what they refer to; and what is said of a wrong one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from armin.conformance import cases, values
from armin.conformance.cases import EngineCase, Json, VectorError
from armin.conformance.matching import _MATCHERS
from armin_broker import protocol
from conformance.bench_of import CLIENT_CASES, ENGINE_CASES, VECTORS

DIRECTORY = cases.default_directory()
NEED_OF = {
    "fail_writes": {"storage_failing"},
    "allow_writes": {"storage_failing"},
    "terminate": {"shutting_down", "restart"},
    "kill": {"kill"},
    "start": {"shutting_down", "restart", "kill"},
}


def placeholders(value: Json) -> Iterator[tuple[str, Json]]:
    """Every placeholder within, in the order in which it is met."""
    name = values.placeholder(value)
    if name is not None:
        yield name, value[name]
    if name == "$literal":
        return
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from placeholders(item)


def parts(case: EngineCase) -> Iterator[Json]:
    for step in case.steps:
        yield from (step.send, step.frames, step.envelope, step.expect, step.until)
        yield from (step.size, step.events, step.live, step.effects)


def test_every_error_code_has_a_file_and_every_other_file_has_a_purpose() -> None:
    files = {path.stem for path in DIRECTORY.glob("*.json")}
    assert {f"error_{code}" for code in protocol.ErrorCode} == {n for n in files if n.startswith("error_")}
    assert files == {case.file for case in (*VECTORS.engine, *VECTORS.client)}


@pytest.mark.parametrize("case", [*ENGINE_CASES.values(), *CLIENT_CASES.values()], ids=lambda case: case.id)
def test_a_case_says_why(case: Any) -> None:
    assert case.why.endswith(".")
    assert case.name.replace("_", "a").isalnum()
    assert case.name == case.name.lower()


@pytest.mark.parametrize("case", ENGINE_CASES.values(), ids=lambda case: case.id)
def test_a_case_refers_to_what_it_has_bound(case: EngineCase) -> None:
    bound: set[str] = set()
    for part in parts(case):
        for name, argument in placeholders(part):
            assert values.is_built(name) or name in _MATCHERS or name in values.FRAMES, name
            if name == "$bind":
                bound.add(argument)
            elif name == "$ref":
                assert argument in bound, f"{argument} is referred to before it is bound"
            elif name == "$limit":
                assert argument in protocol.LIMITS
    controls = {step.control for step in case.steps if step.control is not None}
    for control in controls:
        assert NEED_OF[control] & set(case.needs), f"{control} needs something"
    assert bool(case.needs) == bool(controls)


def test_names_of_a_case_are_given_by_the_run() -> None:
    """So that the cases can be played again: no name, no group and no creation's key is written out."""
    for case in ENGINE_CASES.values():
        for step in case.steps:
            commands = step.send if isinstance(step.send, list) else [step.send]
            for command in commands:
                if isinstance(command, dict) and command.get("op") in ("create_session", "create_group"):
                    for field in ("name", "group") + (("key",) if command["op"] == "create_session" else ()):
                        value = command.get(field)
                        assert not (isinstance(value, str) and value and _succeeds(step)), (case.id, value)


def _succeeds(step: cases.Step) -> bool:
    return "bad_request" not in json.dumps(step.expect)


# --- files that are wrong -------------------------------------------------------------------------

GOOD: dict[str, Any] = {"name": "n", "why": "w.", "steps": [{"send": {"op": "ping"}, "expect": {"ok": True}}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "v.json: it is not an object"),
        ({"cases": [GOOD]}, "v.json: about: it is not a text"),
        ({"about": "a", "cases": [GOOD], "later": 1}, "v.json: nobody knows later"),
        ({"about": "a", "cases": [GOOD, GOOD]}, "v.json: n: there are two of this name"),
        ({"about": "a", "cases": [{**GOOD, "needs": ["luck"]}]}, "v.json: n: nobody knows the need 'luck'"),
        ({"about": "a", "cases": [{**GOOD, "why": ""}]}, "v.json: n: why: it is not a text"),
        (
            {"about": "a", "cases": [{**GOOD, "steps": [{"sent": {}}]}]},
            "v.json: n: steps[0]: nobody knows sent",
        ),
        (
            {"about": "a", "cases": [{**GOOD, "steps": [{"control": "hope"}]}]},
            "v.json: n: steps[0]: nobody knows the control 'hope'",
        ),
        (
            {"about": "a", "cases": [{**GOOD, "steps": [{"send": {}, "close": True}]}]},
            "v.json: n: steps[0]: it has more than one of send, frames, control, close",
        ),
        (
            {"about": "a", "cases": [{**GOOD, "steps": [{"send": [], "until": {}}]}]},
            "v.json: n: steps[0]: until needs one command",
        ),
        (
            {
                "about": "a",
                "cases": [{"name": "n", "why": "w.", "call": {}, "answers": [], "result": {}, "sent": []}],
            },
            "v.json: n: the result is either ok or an error",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_place(
    tmp_path: Path, document: Any, message: str
) -> None:
    (tmp_path / "v.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(VectorError) as caught:
        cases.load(tmp_path)
    assert str(caught.value).removeprefix(f"{tmp_path}/") == message


def test_a_directory_without_vectors_and_a_file_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="there are no vectors in"):
        cases.load(tmp_path)
    (tmp_path / "v.json").write_text("{", "utf-8")
    with pytest.raises(VectorError, match=r"v\.json: Expecting"):
        cases.load(tmp_path)
