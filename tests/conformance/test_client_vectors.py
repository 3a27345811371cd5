"""What the Python clients make of what they get, by the client vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from armin.conformance.matching import differences
from armin.conformance.values import build
from conformance.bench_of import CLIENT_CASES
from conformance.scripted import SILENCE, Scripted, nothing_known, sending_errors
from conformance.speakers import Asynchronous, Blocking

ANSWERED_S = 20.0  # for what is answered in the end
SILENT_S = 3.0  # for what is not: long enough to be sent again once


@pytest.mark.parametrize("kind", [Blocking, Asynchronous], ids=["blocking", "asyncio"])
@pytest.mark.parametrize("name", list(CLIENT_CASES))
def test_a_client_makes_of_it_what_it_must(
    short_dir: Path, kind: type[Blocking | Asynchronous], name: str
) -> None:
    case = CLIENT_CASES[name]
    timeout = SILENT_S if case.answers[-1] == SILENCE else ANSWERED_S
    call = build(dict(case.call), nothing_known())
    with Scripted(short_dir, case) as engine, kind(short_dir, timeout) as speaker:
        said = speaker.ask(call)
    assert said is not None, "a client has a method for it"
    (outcome,) = case.result
    got = said.fields if outcome == "ok" else said.fields.get("error")
    assert list(differences(case.result[outcome], got, nothing_known())) == []
    assert said.fields["ok"] is (outcome == "ok")
    assert sending_errors(case, engine.got) == []
