"""Exporting from a real engine, and what comes of importing it again, here and elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import armin
from armin.importers import (
    ExportProgress,
    ExportResult,
    ImportResult,
    Outcome,
    ProblemKind,
    UnknownFormat,
    export,
    export_reader,
    import_file,
)
from armin.importers.export_format import with_origin, without_origin
from armin.importers.fitting import META_BYTES_MAX, meta_fits
from harness import Engine

TRANSCRIPTS = Path(__file__).parent / "transcripts"


@pytest.fixture
def client(engine: Engine) -> Iterator[armin.Client]:
    with armin.connect(engine.directory) as client:
        yield client


@pytest.fixture
def elsewhere(short_dir: Path) -> Iterator[armin.Client]:
    """A client of another engine, with another database."""
    other = Engine(short_dir / "other").start()
    try:
        with armin.connect(other.directory) as client:
            yield client
    finally:
        other.stop()


def exported(client: armin.Client, **options: Any) -> bytes:
    out = io.BytesIO()
    export(client, out, **options)
    return out.getvalue()


def lines(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.decode().split("\n") if line]


def import_bytes(client: armin.Client, data: bytes, **options: Any) -> ImportResult:
    return import_file(client, io.BytesIO(data), **options)


def sessions(client: armin.Client) -> tuple[armin.Session, ...]:
    return client.sessions(limit=10_000).sessions


def same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def some_sessions(client: armin.Client) -> None:
    """A named one, a nameless one, a closed one, an empty one, an imported one."""
    first = client.create_session("sales/7", {"title": "a title", "tags": ["x", 1.0, None]})
    client.append(first.id, "user", "hello 👋 \u2028 \0 \x85")
    client.append(first.id, "assistant", "", {"tool_calls": [{"id": "c1"}], "big": 2**63 - 1})
    client.append(first.id, "tool", "done", {"source": {"system": "crm"}})
    second = client.create_session()
    client.append(second.id, "system", "be brief", {"source": "web"})
    client.close_session(second.id)
    client.create_session(None, {"empty": {}})
    import_file(client, TRANSCRIPTS / "openai.jsonl")


# --- Armin's own format ---------------------------------------------------------------------------


def test_export_has_head_sessions_with_their_messages_and_counts(client: armin.Client) -> None:
    session = client.create_session("s", {"k": 1})
    client.append(session.id, "user", "hi", {"m": 2})
    client.append(session.id, "assistant", "ho")
    client.close_session(session.id)
    empty = client.create_session()
    hello = client.hello()
    messages = list(client.messages(session.id))
    assert lines(exported(client)) == [
        {"armin": "export/1", "database": hello.database, "epoch": hello.epoch, "position": hello.position},
        {
            "session": {
                "id": session.id,
                "name": "s",
                "closed": True,
                "created_at": session.created_at,
                "seq": 2,
                "meta": {"k": 1},
            }
        },
        {
            "message": {
                "id": messages[0].id,
                "session_id": session.id,
                "seq": 1,
                "role": "user",
                "content": "hi",
                "created_at": messages[0].created_at,
                "meta": {"m": 2},
            }
        },
        {
            "message": {
                "id": messages[1].id,
                "session_id": session.id,
                "seq": 2,
                "role": "assistant",
                "content": "ho",
                "created_at": messages[1].created_at,
            }
        },
        {"session": {"id": empty.id, "closed": False, "created_at": empty.created_at, "seq": 0}},
        {"end": {"sessions": 2, "messages": 2}},
    ]


def test_result_and_progress_count_what_was_written(client: armin.Client) -> None:
    some_sessions(client)
    out = io.BytesIO()
    states: list[ExportProgress] = []
    result = export(client, out, progress=states.append)
    total = sum(session.seq for session in sessions(client))
    assert result == ExportResult("armin", 12, total, len(out.getvalue()), client.ping())
    assert [state.last_id for state in states] == [session.id for session in sessions(client)]
    assert states[-1].messages == total


def test_no_line_holds_another_line_end_of_unicode(client: armin.Client) -> None:
    some_sessions(client)
    for name in ("armin", "openai"):
        text = exported(client, format=name).decode()
        assert text.splitlines() == text.split("\n")[:-1]


def test_importing_an_export_into_the_same_engine_adds_nothing(client: armin.Client) -> None:
    some_sessions(client)
    data = exported(client)
    position = client.ping()
    result = import_bytes(client, data)
    assert client.ping() == position
    assert (result.outcome, result.present, result.messages_added) == (Outcome.COMPLETE, 12, 0)


def comparable(client: armin.Client, *, names: bool = True) -> list[Any]:
    """Sessions without ids and times, and without the origins that an import notes."""
    found = []
    for session in sessions(client):
        messages = [(m.role, m.content, without_origin(m.meta)) for m in client.messages(session.id)]
        name = session.name if names else None
        found.append((name, session.closed, without_origin(session.meta), messages))
    return found


def test_importing_an_export_elsewhere_gives_equal_sessions(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    some_sessions(client)
    result = import_bytes(elsewhere, exported(client))
    assert result.outcome is Outcome.COMPLETE
    assert same(comparable(elsewhere, names=False), comparable(client, names=False))
    database = client.hello().database
    given = [session.name or f"armin:{database}:{session.id}" for session in sessions(client)]
    assert [session.name for session in sessions(elsewhere)] == given
    position = elsewhere.ping()
    assert import_bytes(elsewhere, exported(client)).created == 0
    assert elsewhere.ping() == position


def test_lanes_bring_small_and_large_sessions_elsewhere_in_order(
    client: armin.Client, elsewhere: armin.Client, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_reader, "_HELD_MESSAGES_MAX", 3)
    some_sessions(client)
    with armin.connect(short_dir / "other") as one, armin.connect(short_dir / "other") as two:
        result = import_bytes(elsewhere, exported(client), lanes=[one, two])
        again = import_bytes(elsewhere, exported(client), lanes=[one, two])
    assert (result.created, again.created, again.messages_added) == (12, 0, 0)
    assert same(comparable(elsewhere, names=False), comparable(client, names=False))


def test_original_ids_and_times_stand_under_source_armin(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    some_sessions(client)
    import_bytes(elsewhere, exported(client))
    for ours, theirs in zip(sessions(client), sessions(elsewhere), strict=True):
        assert theirs.meta is not None
        origin = {"database": client.hello().database, "id": ours.id, "created_at": ours.created_at}
        assert theirs.meta["source"]["armin"] == origin
        for sent, got in zip(client.messages(ours.id), elsewhere.messages(theirs.id), strict=True):
            assert got.meta is not None
            if sent.meta != {"source": "web"}:  # a field of the caller's own in that place stays as it is
                assert got.meta["source"]["armin"] == {"id": sent.id, "created_at": sent.created_at}


def test_there_and_back_adds_nothing(client: armin.Client, elsewhere: armin.Client) -> None:
    some_sessions(client)
    import_bytes(elsewhere, exported(client))
    position = client.ping()
    result = import_bytes(client, exported(elsewhere))
    assert (result.outcome, result.present) == (Outcome.COMPLETE, 12)
    assert client.ping() == position


def test_origins_do_not_pile_up_over_engines(client: armin.Client, short_dir: Path) -> None:
    some_sessions(client)
    data = exported(client)
    metas: list[Any] = []
    for number in range(2):
        engine = Engine(short_dir / f"hop{number}").start()
        try:
            with armin.connect(engine.directory) as hop:
                import_bytes(hop, data)
                data = exported(hop)
                metas.append(
                    [[session.meta, *(m.meta for m in hop.messages(session.id))] for session in sessions(hop)]
                )
        finally:
            engine.stop()
    assert metas[0] == metas[1]


def test_continued_session_is_continued_elsewhere_too(client: armin.Client, elsewhere: armin.Client) -> None:
    session = client.create_session()
    client.append(session.id, "user", "one")
    import_bytes(elsewhere, exported(client))
    client.append(session.id, "assistant", "two")
    client.close_session(session.id)
    result = import_bytes(elsewhere, exported(client))
    assert (result.continued, result.messages_added, result.messages_present) == (1, 1, 1)
    assert same(comparable(elsewhere, names=False), comparable(client, names=False))


def test_session_that_differs_elsewhere_is_a_conflict(client: armin.Client, elsewhere: armin.Client) -> None:
    for engine, text in ((client, "one"), (elsewhere, "another")):
        engine.append(engine.create_session("same name").id, "user", text)
    client.create_session("other meta", {"a": 1})
    elsewhere.create_session("other meta", {"a": 2})
    client.append(client.create_session("third").id, "user", "three")
    result = import_bytes(elsewhere, exported(client))
    assert result.outcome is Outcome.CONFLICT
    assert [(problem.session, problem.seq) for problem in result.problems] == [
        ("same name", 1),
        ("other meta", None),
    ]
    assert [message.content for message in elsewhere.messages(1)] == ["another"]
    assert result.created == 1


def test_session_that_goes_on_where_the_export_closes_it_is_a_conflict(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    for engine in (client, elsewhere):
        engine.append(engine.create_session("s").id, "user", "one")
    client.close_session(1)
    elsewhere.append(1, "user", "two")
    result = import_bytes(elsewhere, exported(client))
    assert result.outcome is Outcome.CONFLICT
    assert not elsewhere.session(1).closed


def test_chosen_sessions_come_once_in_the_order_of_ids(client: armin.Client) -> None:
    some_sessions(client)
    written = lines(exported(client, session_ids=[3, 1, 3]))
    assert [line["session"]["id"] for line in written if "session" in line] == [1, 3]
    assert written[-1] == {"end": {"sessions": 2, "messages": 3}}


def test_chosen_session_that_does_not_exist_is_told_before_anything_is_written(client: armin.Client) -> None:
    client.create_session()
    out = io.BytesIO()
    with pytest.raises(armin.SessionNotFound):
        export(client, out, session_ids=[1, 99])
    assert out.getvalue() == b""


def test_unknown_export_format_is_an_error(client: armin.Client) -> None:
    with pytest.raises(UnknownFormat, match="armin, openai"):
        export(client, io.BytesIO(), format="sharegpt")


def test_messages_appended_while_exporting_are_left_for_the_next_one(client: armin.Client) -> None:
    for name in ("a", "b"):
        client.append(client.create_session(name).id, "user", "before")
    out = io.BytesIO()

    def write_more(state: ExportProgress) -> None:
        client.append(2, "user", "after")

    export(client, out, progress=write_more)
    written = lines(out.getvalue())
    assert [line["message"]["content"] for line in written if "message" in line] == ["before", "before"]
    assert written[-1] == {"end": {"sessions": 2, "messages": 2}}


# --- a damaged export -----------------------------------------------------------------------------


def test_export_cut_anywhere_imports_what_stands_whole_and_later_the_rest(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    some_sessions(client)
    data = exported(client)
    first_line = data.index(b"\n")
    for cut in range(first_line + 1, len(data) - 1, 97):
        part = import_bytes(elsewhere, data[:cut])
        assert part.outcome is Outcome.CUT_OFF, cut
        assert len(part.problems) == 1
        assert part.problems[0].offset in range(cut - 3, cut + 1)
        last_line = len(data[:cut].splitlines())
        assert f"line {last_line}" in str(part.problems[0])
        whole = [line for line in data[:cut].split(b"\n")[:-1] if line.startswith(b'{"message"')]
        assert part.messages_added + part.messages_present in (len(whole), len(whole) + 1)
    assert import_bytes(elsewhere, data).outcome is Outcome.COMPLETE
    assert same(comparable(elsewhere, names=False), comparable(client, names=False))


def test_session_is_not_closed_before_all_its_messages_are_there(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    session = client.create_session("s")
    for text in ("one", "two"):
        client.append(session.id, "user", text)
    client.close_session(session.id)
    data = exported(client)
    import_bytes(elsewhere, data[: data.index(b'"two"')])
    assert (elsewhere.session(1).seq, elsewhere.session(1).closed) == (1, False)
    import_bytes(elsewhere, data)
    assert (elsewhere.session(1).seq, elsewhere.session(1).closed) == (2, True)


@pytest.mark.parametrize("fault", ["garbage", "missing", "wrong seq", "bad role"])
def test_session_with_a_damaged_message_is_imported_up_to_it_and_the_next_one_whole(
    client: armin.Client, elsewhere: armin.Client, fault: str
) -> None:
    for name in ("a", "b"):
        session = client.create_session(name)
        for text in ("one", "two", "three"):
            client.append(session.id, "user", text)
    parts = exported(client).splitlines(keepends=True)
    damaged = {
        "garbage": b"x" + parts[3],
        "missing": b"",
        "wrong seq": parts[3].replace(b'"seq":2', b'"seq":9'),
        "bad role": parts[3].replace(b'"user"', b'"oracle"'),
    }
    result = import_bytes(elsewhere, b"".join([*parts[:3], damaged[fault], *parts[4:]]))
    texts = [[message.content for message in elsewhere.messages(number)] for number in (1, 2)]
    assert texts == [["one"], ["one", "two", "three"]]
    assert result.outcome is Outcome.BROKEN
    assert any("session 1" in str(problem) and "seq 2" in str(problem) for problem in result.problems)
    assert import_bytes(elsewhere, b"".join(parts)).outcome is Outcome.COMPLETE


def test_missing_session_shows_in_the_counts(client: armin.Client, elsewhere: armin.Client) -> None:
    client.create_session("a")
    client.create_session("b")
    parts = exported(client).splitlines(keepends=True)
    result = import_bytes(elsewhere, b"".join([parts[0], *parts[2:]]))
    assert [session.name for session in sessions(elsewhere)] == ["b"]
    [problem] = result.problems
    assert problem.kind is ProblemKind.BROKEN
    assert "2 sessions" in str(problem)


def test_exports_one_behind_the_other_are_both_imported(
    client: armin.Client, elsewhere: armin.Client, short_dir: Path
) -> None:
    client.create_session()
    first = exported(client)
    client.create_session()
    third = Engine(short_dir / "third").start()
    try:
        with armin.connect(third.directory) as target:
            elsewhere.create_session()
            result = import_bytes(target, first + exported(elsewhere))
            assert (result.outcome, result.created) == (Outcome.COMPLETE, 2)
    finally:
        third.stop()


def test_export_of_a_later_version_is_refused_not_misread(client: armin.Client) -> None:
    data = b'{"armin": "export/2", "database": "d"}\n{"session": {"id": 1}}\n'
    result = import_bytes(client, data)
    assert result.outcome is Outcome.BROKEN
    assert "export/2" in str(result.problems[0])
    assert client.ping() == 0


def test_origin_is_left_out_where_the_meta_has_no_room() -> None:
    full = {"x": "y" * (META_BYTES_MAX - len('{"x":""}'))}
    assert meta_fits(full)
    assert with_origin(full, {"id": 1}) == full


# --- OpenAI ---------------------------------------------------------------------------------------


def test_openai_import_comes_out_equal_conversation_by_conversation(client: armin.Client) -> None:
    original = (TRANSCRIPTS / "openai.jsonl").read_bytes()
    import_bytes(client, original)
    got = lines(exported(client, format="openai"))
    wanted = lines(original)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert [json.dumps(m, sort_keys=True) for m in one.pop("messages")] == [
            json.dumps(m, sort_keys=True) for m in other.pop("messages")
        ]
        assert same(one, other)


def test_openai_import_comes_out_equal_after_a_journey_through_another_engine(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    import_file(client, TRANSCRIPTS / "openai.jsonl")
    import_bytes(elsewhere, exported(client))
    there = lines(exported(elsewhere, format="openai"))
    here = lines(exported(client, format="openai"))
    assert same(there, here)


def test_large_and_odd_top_level_keys_come_out_equal(client: armin.Client) -> None:
    conversation = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "x" * META_BYTES_MAX}],
        "id": "c1",
        "n": 2**70,
    }
    import_bytes(client, json.dumps(conversation).encode())
    assert lines(exported(client, format="openai")) == [conversation]


def test_importing_an_openai_export_elsewhere_gives_the_same_names(
    client: armin.Client, elsewhere: armin.Client
) -> None:
    import_file(client, TRANSCRIPTS / "openai.jsonl")
    import_bytes(elsewhere, exported(client, format="openai"))
    assert [session.name for session in sessions(elsewhere)] == [session.name for session in sessions(client)]


def test_native_session_is_rendered_as_openai_writes_it(client: armin.Client) -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    session = client.create_session("support/9", {"title": "private", "tools": [{"type": "function"}]})
    client.append(session.id, "system", "be kind", {"tokens": 3})
    client.append(session.id, "assistant", "", {"tool_calls": calls, "model": "m"})
    client.append(session.id, "tool", "42", {"tool_call_id": "call_1"})
    client.append(session.id, "user", "", {"name": "ada"})
    assert lines(exported(client, format="openai")) == [
        {
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "content": "42", "tool_call_id": "call_1"},
                {"role": "user", "content": "", "name": "ada"},
            ],
            "id": "support/9",
            "tools": [{"type": "function"}],
        }
    ]


def test_nameless_empty_session_is_a_line_too(client: armin.Client) -> None:
    client.create_session()
    assert lines(exported(client, format="openai")) == [{"messages": []}]


def test_sharegpt_and_chitchat_imports_are_rendered_with_their_ids(client: armin.Client) -> None:
    import_file(client, TRANSCRIPTS / "sharegpt.json")
    import_file(client, TRANSCRIPTS / "chitchat.json")
    got = lines(exported(client, format="openai"))
    assert got[0] == {
        "messages": [
            {"role": "user", "content": "Summarize the plot of Hamlet."},
            {"role": "assistant", "content": "A prince hesitates; everybody dies. 🎭"},
            {"role": "user", "content": "Shorter."},
            {"role": "assistant", "content": "Hesitation kills."},
        ],
        "id": "QWJhYvA_0",
    }
    assert got[2]["messages"][0] == {"role": "user", "content": "half \ud83d"}
    assert [set(message) for message in got[3]["messages"]] == [{"role", "content"}] * 4
    assert got[3]["id"] == "a07edb12-6b91-4138-b11e-02421888d699"


def test_openai_conversation_continued_in_armin_goes_on_in_the_export(client: armin.Client) -> None:
    import_bytes(client, b'{"messages": [{"role": "developer", "content": "x"}], "id": "c"}')
    client.append(1, "user", "and now?", {"name": "ada"})
    assert lines(exported(client, format="openai"))[0]["messages"] == [
        {"role": "developer", "content": "x"},
        {"role": "user", "content": "and now?", "name": "ada"},
    ]


def test_a_sharegpt_message_whose_fields_fit_no_meta_is_rendered_with_its_text(client: armin.Client) -> None:
    text = '{"value": "no mark of ours"}'
    turns = [{"from": "human", "value": text, "big": 1 << 64}]
    import_file(client, io.BytesIO(json.dumps({"conversations": turns}).encode()))
    out = io.BytesIO()
    export(client, out, format="openai")
    assert json.loads(out.getvalue())["messages"] == [{"role": "user", "content": text}]
