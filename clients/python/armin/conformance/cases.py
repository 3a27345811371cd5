"""The vectors: files of cases, checked as they are read. tests/conformance/README.md describes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

Json = Any  # whatever JSON can say, placeholders included

NEEDS: Final = {
    "storage_failing": "somebody who can make the engine's disk fail",
    "shutting_down": "somebody who can end the engine",
    "restart": "somebody who can restart the engine",
    "kill": "somebody who can kill the engine",
}
CONTROLS: Final = ("fail_writes", "allow_writes", "terminate", "kill", "start")
MAIN: Final = "main"  # the peer of a step that names none


class VectorError(Exception):
    """A file of vectors that cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is done, and what must come of it. None: not given."""

    peer: str = MAIN
    send: Json = None
    frames: list[Json] | None = None
    control: str | None = None
    close: bool = False
    expect: Json = None
    until: Json = None
    envelope: list[Json] | None = None
    size: Json = None
    closed: bool = False
    events: list[Json] | None = None
    live: list[Json] | None = None
    effects: list[Json] | None = None
    note: str = ""  # for the reader


@dataclass(frozen=True, slots=True)
class EngineCase:
    """What an engine must do."""

    file: str
    name: str
    why: str
    needs: tuple[str, ...]
    slow: bool
    peers: Mapping[str, Mapping[str, Any]]
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        """Its name among all cases."""
        return f"{self.file}/{self.name}"


@dataclass(frozen=True, slots=True)
class ClientCase:
    """What a client must make of what it gets: `answers` are sent one by one to the commands it sends."""

    file: str
    name: str
    why: str
    call: Mapping[str, Json]
    answers: tuple[Json, ...]
    result: Json
    sent: tuple[Json, ...]

    @property
    def id(self) -> str:
        """Its name among all cases."""
        return f"{self.file}/{self.name}"


@dataclass(frozen=True, slots=True)
class Vectors:
    """All cases of a directory, in the order of its files' names."""

    engine: tuple[EngineCase, ...]
    client: tuple[ClientCase, ...]


def default_directory() -> Path:
    """Where the vectors are: in the installed package, or in the source tree that it is run from."""
    package = Path(__file__).parent
    shipped = package / "vectors"
    return shipped if shipped.is_dir() else package.parents[3] / "tests" / "conformance"


def load(directory: Path) -> Vectors:
    """Every `*.json` of a directory.

    Raises:
        VectorError: there is none, or one is not as the format wants it.
        OSError: one cannot be read.
    """
    found = [case for path in sorted(directory.glob("*.json")) for case in _cases(path)]
    if not found:
        raise VectorError(f"there are no vectors in {directory}")
    return Vectors(
        tuple(case for case in found if isinstance(case, EngineCase)),
        tuple(case for case in found if isinstance(case, ClientCase)),
    )


def _cases(path: Path) -> Iterator[EngineCase | ClientCase]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise VectorError(f"{path}: {error}") from None
    where = _Place(path.name)
    top = where.map(document, {"about", "cases"})
    where.at("about").text(top.get("about"))
    names: set[str] = set()
    for item in where.at("cases").array(top.get("cases")):
        place = where.at(str(item.get("name")) if isinstance(item, dict) else "?")
        case = (
            _client_case(path.stem, item, place) if "call" in item else _engine_case(path.stem, item, place)
        )
        if case.name in names:
            raise place.wrong("there are two of this name")
        names.add(case.name)
        yield case


def _engine_case(file: str, item: Json, where: _Place) -> EngineCase:
    case = where.map(item, {"name", "why", "needs", "slow", "peers", "steps"})
    needs = tuple(where.at("needs").array(case.get("needs", [])))
    for need in needs:
        if need not in NEEDS:
            raise where.wrong(f"nobody knows the need {need!r}")
    steps = where.at("steps").array(case.get("steps"))
    return EngineCase(
        file,
        where.at("name").text(case.get("name")),
        where.at("why").text(case.get("why")),
        needs,
        case.get("slow", False) is True,
        where.at("peers").map(case.get("peers", {}), None),
        tuple(_step(step, where.at(f"steps[{index}]")) for index, step in enumerate(steps)),
    )


_STEP_FIELDS: Final = frozenset(field.name for field in fields(Step))
_ACTIONS: Final = ("send", "frames", "control", "close")


def _step(item: Json, where: _Place) -> Step:
    step = Step(**where.map(item, _STEP_FIELDS))
    if sum(name in item for name in _ACTIONS) > 1:
        raise where.wrong(f"it has more than one of {', '.join(_ACTIONS)}")
    if step.control is not None and step.control not in CONTROLS:
        raise where.wrong(f"nobody knows the control {step.control!r}")
    if step.until is not None and not isinstance(step.send, dict):
        raise where.wrong("until needs one command")
    for name in ("frames", "envelope", "events", "live", "effects"):
        if item.get(name) is not None:
            where.at(name).array(item[name])
    return step


def _client_case(file: str, item: Json, where: _Place) -> ClientCase:
    case = where.map(item, {"name", "why", "call", "answers", "result", "sent"})
    if set(where.at("result").map(case.get("result"), {"ok", "error"})) not in ({"ok"}, {"error"}):
        raise where.wrong("the result is either ok or an error")
    return ClientCase(
        file,
        where.at("name").text(case.get("name")),
        where.at("why").text(case.get("why")),
        where.at("call").map(case.get("call"), None),
        tuple(where.at("answers").array(case.get("answers"))),
        case["result"],
        tuple(where.at("sent").array(case.get("sent"))),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which file, for the message of an error."""

    name: str

    def at(self, part: str) -> _Place:
        return _Place(f"{self.name}: {part}")

    def wrong(self, why: str) -> VectorError:
        return VectorError(f"{self.name}: {why}")

    def map(self, value: Json, known: frozenset[str] | set[str] | None) -> dict[str, Json]:
        if not isinstance(value, dict):
            raise self.wrong("it is not an object")
        if known is not None and not known >= set(value):
            raise self.wrong(f"nobody knows {', '.join(sorted(set(value) - known))}")
        return value

    def array(self, value: Json) -> list[Json]:
        if not isinstance(value, list):
            raise self.wrong("it is not an array")
        return value

    def text(self, value: Json) -> str:
        if not isinstance(value, str) or not value:
            raise self.wrong("it is not a text")
        return value
