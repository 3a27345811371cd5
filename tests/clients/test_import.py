"""Importing into a real engine: what arrives, twice, from several lanes, after kills, beside others."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import armin
from armin.importers import (
    ImportProgress,
    ImportResult,
    Outcome,
    ProblemKind,
    UnknownFormat,
    export,
    import_file,
    transfer,
)
from harness import Engine

TRANSCRIPTS = Path(__file__).parent / "transcripts"


@pytest.fixture
def client(engine: Engine) -> Iterator[armin.Client]:
    with armin.connect(engine.directory) as client:
        yield client


def conversation(*texts: str, **rest: Any) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return json.dumps({"messages": messages, **rest}).encode() + b"\n"


def import_bytes(client: armin.Client, data: bytes, **options: Any) -> ImportResult:
    return import_file(client, io.BytesIO(data), **options)


def everything(client: armin.Client) -> list[tuple[str | None, Any, list[tuple[str, str, Any]]]]:
    """Every session as (name, meta, messages), in the order of ids."""
    sessions = client.sessions(limit=10_000).sessions
    return [
        (session.name, session.meta, [(m.role, m.content, m.meta) for m in client.messages(session.id)])
        for session in sessions
    ]


def contents(client: armin.Client) -> list[list[str]]:
    return [[content for _, content, _ in messages] for _, _, messages in everything(client)]


# --- what arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format_name", "sessions", "messages"),
    [
        ("openai.jsonl", "openai", 9, 30),
        ("sharegpt.json", "sharegpt", 3, 12),
        ("chitchat.json", "chitchat", 2, 5),
    ],
)
def test_each_conversation_becomes_a_session(
    client: armin.Client, name: str, format_name: str, sessions: int, messages: int
) -> None:
    result = import_file(client, TRANSCRIPTS / name)
    assert result.outcome is Outcome.COMPLETE
    assert result.problems == ()
    assert (result.format, result.conversations, result.created) == (format_name, sessions, sessions)
    assert result.messages_added == messages
    assert result.bytes_read == (TRANSCRIPTS / name).stat().st_size
    found = everything(client)
    assert len(found) == sessions
    assert sum(len(session) for _, _, session in found) == messages
    assert all(str(name).startswith(f"{format_name}:") for name, _, _ in found)


@pytest.mark.parametrize("name", ["openai.jsonl", "sharegpt.json", "chitchat.json"])
def test_importing_again_adds_nothing(client: armin.Client, name: str) -> None:
    first = import_file(client, TRANSCRIPTS / name)
    position = client.ping()
    second = import_file(client, TRANSCRIPTS / name, file="another name")
    assert client.ping() == position
    assert (second.created, second.messages_added) == (0, 0)
    assert (second.present, second.messages_present) == (first.created, first.messages_added)
    assert second.outcome is Outcome.COMPLETE


def test_original_id_place_and_file_stand_under_source(client: armin.Client) -> None:
    import_file(client, TRANSCRIPTS / "openai.jsonl")
    metas = [meta for _, meta, _ in everything(client)]
    assert metas[1] == {
        "source": {
            "format": "openai",
            "place": "line 2",
            "file": "openai.jsonl",
            "id": "conv-ü-1",
            "created_at": 1700000000,
        }
    }
    assert metas[2]["metadata"] == {"source": "archive"}


def test_same_conversation_twice_in_a_file_is_one_session_if_it_has_an_id(client: armin.Client) -> None:
    result = import_bytes(client, conversation("a", id="x") + conversation("b") + conversation("a", id="x"))
    assert contents(client) == [["a"], ["b"]]
    assert (result.created, result.present) == (2, 1)


def test_equal_conversations_without_ids_stay_apart(client: armin.Client) -> None:
    import_bytes(client, conversation("a") + conversation("a"))
    assert contents(client) == [["a"], ["a"]]


def test_conversation_without_messages_is_a_session(client: armin.Client) -> None:
    result = import_bytes(client, conversation(title="empty"))
    assert (result.created, result.messages_added) == (1, 0)
    assert everything(client)[0][1]["title"] == "empty"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"[]", b"\n[\n ]\r\n"])
def test_empty_file_is_complete_and_adds_nothing(client: armin.Client, data: bytes) -> None:
    result = import_bytes(client, data)
    assert (result.outcome, result.format, result.conversations) == (Outcome.COMPLETE, "", 0)


def test_byte_order_mark_crlf_and_blank_lines(client: armin.Client) -> None:
    data = b"\xef\xbb\xbf" + conversation("a").strip() + b"\r\n\r\n" + conversation("b").strip()
    assert import_bytes(client, data).outcome is Outcome.COMPLETE
    assert contents(client) == [["a"], ["b"]]


def test_unknown_format_imports_nothing(client: armin.Client) -> None:
    with pytest.raises(UnknownFormat, match="sharegpt"):
        import_bytes(client, b"role,content\nuser,hi\n")
    assert client.ping() == 0


def test_pipe_that_cannot_be_rewound(client: armin.Client) -> None:
    reading, writing = os.pipe()
    data = b"".join(conversation(f"number {number}", "x" * 1000) for number in range(200))

    def write() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    totals: list[int | None] = []
    with os.fdopen(reading, "rb") as pipe:
        result = import_file(client, pipe, progress=lambda state: totals.append(state.bytes_total))
    writer.join()
    assert (result.created, result.messages_added) == (200, 400)
    assert set(totals) == {None}


def test_progress_runs_up_to_the_whole_file(client: armin.Client, tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_bytes(b"".join(conversation("a", "b", id=number) for number in range(20)))
    states: list[ImportProgress] = []
    import_file(client, path, progress=states.append)
    size = path.stat().st_size
    assert states[-1] == ImportProgress(size, size, 20, 40)
    assert [state.messages for state in states] == sorted(state.messages for state in states)
    assert len({state.conversations for state in states}) > 10


# --- large ones -----------------------------------------------------------------------------------


def test_long_conversation_is_sent_in_batches(client: armin.Client) -> None:
    texts = [f"message {number}" for number in range(transfer.BATCH_MESSAGES * 2 + 7)]
    states: list[ImportProgress] = []
    result = import_bytes(client, conversation(*texts), progress=states.append)
    assert result.messages_added == len(texts)
    assert contents(client) == [texts]
    assert [state.messages for state in states] == [2000, 4000, 4007, 4007]


def test_batches_hold_the_engine_limits_of_bytes_and_values(client: armin.Client) -> None:
    many_values = {"x": [0] * 20_000}  # 20 of them would be over what one command may hold
    data = json.dumps({"messages": [{"role": "user", "content": "m", **many_values}] * 20}).encode()
    assert import_bytes(client, data).messages_added == 20
    heavy = "é" * 400_000
    assert import_bytes(client, conversation(*[heavy] * 30)).messages_added == 30


def test_message_at_the_content_limit_goes_in_with_its_meta(client: armin.Client) -> None:
    text = "x" * (16 << 20)
    data = json.dumps({"messages": [{"role": "user", "content": text, "name": "n" * 60_000}]}).encode()
    result = import_bytes(client, data)
    assert (result.outcome, result.messages_added) == (Outcome.COMPLETE, 1)


def test_message_over_the_content_limit_skips_its_conversation_alone(client: armin.Client) -> None:
    data = conversation("a") + conversation("b", "x" * ((16 << 20) + 1)) + conversation("c")
    result = import_bytes(client, data)
    assert contents(client) == [["a"], ["c"]]
    assert result.outcome is Outcome.REJECTED
    [problem] = result.problems
    assert (problem.kind, problem.index) == (ProblemKind.REJECTED, 2)
    assert "line 2" in str(problem)
    assert "message 2" in str(problem)
    assert "16 MiB" in str(problem)


# --- lanes ----------------------------------------------------------------------------------------


def test_lanes_import_the_same_and_add_nothing_the_second_time(engine: Engine, client: armin.Client) -> None:
    data = b"".join(conversation(f"a {n % 150}", "b", id=n % 150) for n in range(300))
    with ExitStack() as stack:
        lanes = [stack.enter_context(armin.connect(engine.directory)) for _ in range(3)]
        result = import_bytes(client, data, lanes=lanes)
        again = import_bytes(client, data, lanes=lanes)
    assert (result.created, result.present, result.messages_added) == (150, 150, 300)
    assert (again.created, again.messages_added) == (0, 0)
    assert contents(client) == [[f"a {n}", "b"] for n in range(150)]


def test_failure_in_a_lane_reaches_the_caller(engine: Engine, client: armin.Client) -> None:
    data = b"".join(conversation("a", id=n) for n in range(500))
    lane = armin.connect(engine.directory)
    lane.close()
    with pytest.raises(armin.ClientClosed):
        import_bytes(client, data, lanes=[lane])


def test_problems_are_told_with_lanes_too(engine: Engine, client: armin.Client) -> None:
    with armin.connect(engine.directory) as lane:
        result = import_bytes(client, conversation("a") + b"garbage\n" + conversation("b"), lanes=[lane])
    assert sorted(contents(client)) == [["a"], ["b"]]
    assert result.problem_counts == {ProblemKind.BROKEN: 1}


# --- damaged files --------------------------------------------------------------------------------


def test_bad_line_is_named_and_the_others_imported(client: armin.Client) -> None:
    data = (
        conversation("a")
        + b'{"messages": oops}\n'
        + conversation("b")
        + b'{"prompt": 1}\n'
        + conversation("c")
    )
    result = import_bytes(client, data)
    assert contents(client) == [["a"], ["b"], ["c"]]
    assert result.outcome is Outcome.BROKEN
    assert [(problem.kind, problem.index) for problem in result.problems] == [
        (ProblemKind.BROKEN, 2),
        (ProblemKind.REJECTED, 4),
    ]


def test_array_broken_in_the_middle_imports_what_stands_before(client: armin.Client) -> None:
    data = b"[%b, %b, oops, %b]" % tuple(conversation(text) for text in "abc")
    result = import_bytes(client, data)
    assert contents(client) == [["a"], ["b"]]
    assert result.outcome is Outcome.BROKEN


def cut_points(data: bytes) -> list[int]:
    """Inside strings, numbers, words, escapes, UTF-8, between conversations, and here and there."""
    marks = (b"\xc3", b"\xf0\x9f", b"\\ud8", b"1.5", b"17000", b"nul", b"}\n{", b"}", b"true", b"-Inf")
    found = {data.find(mark) + len(mark) - 1 for mark in marks if mark in data}
    return sorted({*found, *range(100, len(data), 61), len(data) - 1})


@pytest.mark.parametrize("name", ["openai.jsonl", "sharegpt.json", "chitchat.json"])
def test_cut_file_imports_what_is_whole_and_a_longer_one_adds_the_rest(
    client: armin.Client, name: str, short_dir: Path
) -> None:
    data = (TRANSCRIPTS / name).read_bytes()
    other = Engine(short_dir / "whole").start()
    try:
        with armin.connect(other.directory) as elsewhere:
            import_bytes(elsewhere, data)
            expected = everything(elsewhere)
    finally:
        other.stop()
    for cut in cut_points(data):
        part = import_bytes(client, data[:cut])
        assert everything(client) == expected[: part.conversations], cut
        if name.endswith(".json") or b"\n" not in data[cut - 1 : cut + 1]:
            assert part.outcome is Outcome.CUT_OFF, cut
            [problem] = part.problems
            assert cut - 3 <= (problem.offset or 0) <= cut
            assert f"byte {problem.offset}" in str(problem)
            assert problem.index in (part.conversations, part.conversations + 1)
        else:
            assert part.outcome is Outcome.COMPLETE, cut
    whole = import_bytes(client, data)
    assert (whole.outcome, whole.conversations) == (Outcome.COMPLETE, len(expected))
    assert everything(client) == expected


def test_conversation_that_the_cut_fell_into_is_added_later_whole(client: armin.Client) -> None:
    data = conversation("a", "b", id="x") + conversation("c", "d", "e", id="y")
    part = import_bytes(client, data[:-20])
    assert (part.outcome, part.created) == (Outcome.CUT_OFF, 1)
    assert "line 2" in str(part.problems[0])
    whole = import_bytes(client, data)
    assert (whole.outcome, whole.created, whole.present, whole.messages_added) == (Outcome.COMPLETE, 1, 1, 3)
    assert contents(client) == [["a", "b"], ["c", "d", "e"]]


# --- interrupted imports --------------------------------------------------------------------------


class Dying:
    """A client that goes away after so many writes, as a process that is killed does."""

    def __init__(self, client: armin.Client, writes: int) -> None:
        self._client = client
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_session(self, *args: Any, **options: Any) -> armin.Session:
        self._spend()
        return self._client.create_session(*args, **options)

    def append(self, *args: Any, **options: Any) -> armin.Appended:
        self._spend()
        return self._client.append(*args, **options)

    def append_many(self, session_id: int, messages: Iterable[Any], **options: Any) -> armin.AppendedMany:
        self._spend()
        return self._client.append_many(session_id, messages, **options)

    def _spend(self) -> None:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1


def test_import_killed_between_any_two_writes_is_completed_by_the_next(
    client: armin.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 3)
    for writes in range(9):
        data = conversation(*"abcdefgh", id=f"{writes}-1") + conversation(*"ijkl", id=f"{writes}-2")
        with pytest.raises(KeyboardInterrupt) if writes < 7 else ExitStack():
            import_bytes(Dying(client, writes), data)  # type: ignore[arg-type]
        result = import_bytes(client, data)
        assert result.outcome is Outcome.COMPLETE
        assert result.messages_added + result.messages_present == 12
        assert contents(client)[-2:] == [list("abcdefgh"), list("ijkl")]


def test_engine_killed_during_an_import_and_started_again(engine: Engine, client: armin.Client) -> None:
    data = b"".join(conversation(f"question {n}", f"answer {n}") for n in range(400))

    def kill(state: ImportProgress) -> None:
        if state.conversations == 150:
            engine.kill()

    with armin.connect(engine.directory, timeout=3.0) as impatient, pytest.raises(armin.NoReply):
        import_bytes(impatient, data, progress=kill)
    engine.start()
    with armin.connect(engine.directory) as again:
        assert len(contents(again)) >= 150
        result = import_bytes(again, data)
        assert result.present >= 150
        assert contents(again) == [[f"question {n}", f"answer {n}"] for n in range(400)]


# --- sessions that hold something else ------------------------------------------------------------


def begun_import(client: armin.Client, data: bytes, writes: int) -> armin.Session:
    """The one session of an import that was killed after so many writes."""
    with pytest.raises(KeyboardInterrupt):
        import_bytes(Dying(client, writes), data)  # type: ignore[arg-type]
    [session] = client.sessions().sessions
    return session


def test_difference_is_a_conflict_that_names_session_and_seq_and_overwrites_nothing(
    client: armin.Client,
) -> None:
    data = conversation("a", "b", "c", id="x")
    session = begun_import(client, data, 1)
    client.append(session.id, "user", "a")
    client.append(session.id, "assistant", "something else")
    result = import_bytes(client, data + conversation("next"))
    assert contents(client) == [["a", "something else"], ["next"]]
    assert result.outcome is Outcome.CONFLICT
    [problem] = result.problems
    assert (problem.session, problem.session_id, problem.seq) == (session.name, session.id, 2)
    assert str(session.name) in str(problem)
    assert "seq 2" in str(problem)


@pytest.mark.parametrize("wrong", [("assistant", "a", None), ("user", "A", None), ("user", "a", {"x": 1})])
def test_role_content_and_meta_are_compared(client: armin.Client, wrong: tuple[str, str, Any]) -> None:
    data = conversation("a", "b", id="x")
    session = begun_import(client, data, 1)
    client.append(session.id, *wrong)
    assert import_bytes(client, data).problem_counts == {ProblemKind.CONFLICT: 1}


def test_session_closed_before_it_was_complete_is_a_conflict(
    client: armin.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 2)
    data = conversation("a", "b", "c", id="x")
    session = begun_import(client, data, 2)
    client.close_session(session.id)
    result = import_bytes(client, data + conversation("next"))
    assert contents(client) == [["a", "b"], ["next"]]
    [problem] = result.problems
    assert (problem.kind, problem.seq) == (ProblemKind.CONFLICT, 3)
    assert "closed" in str(problem)


def test_session_that_was_continued_after_its_import_is_present(client: armin.Client) -> None:
    data = conversation("a", "b", id="x")
    import_bytes(client, data)
    client.append(1, "user", "and then?")
    client.close_session(1)
    result = import_bytes(client, data)
    assert (result.outcome, result.present) == (Outcome.COMPLETE, 1)
    assert contents(client) == [["a", "b", "and then?"]]


def test_somebody_writing_into_the_session_meanwhile_is_a_conflict(
    client: armin.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 2)

    def interfere(state: ImportProgress) -> None:
        if state.messages == 2 and state.conversations == 0:
            client.append(1, "user", "me too")

    result = import_bytes(client, conversation(*"abcdef", id="x"), progress=interfere)
    assert contents(client) == [["a", "b", "me too"]]
    assert [(problem.kind, problem.seq) for problem in result.problems] == [(ProblemKind.CONFLICT, 3)]


# --- two imports of the same file at once ---------------------------------------------------------


def test_another_import_of_the_same_file_that_overtakes_this_one_is_no_conflict(
    client: armin.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 4)
    data = conversation(*"abcdefghijk", id="x")

    def overtake(state: ImportProgress) -> None:
        if state.messages == 4 and state.conversations == 0:
            client.append(1, "user", "e")  # the other one is in the middle of this one's batch
            client.append(1, "assistant", "f")

    result = import_bytes(client, data, progress=overtake)
    assert (result.outcome, result.problems) == (Outcome.COMPLETE, ())
    assert (result.messages_added, result.messages_present) == (9, 2)
    assert contents(client) == [list("abcdefghijk")]


def test_another_import_that_ends_and_closes_the_session_meanwhile_is_no_conflict(
    client: armin.Client, monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 2)
    session = client.create_session("closed")
    client.append_many(session.id, [{"role": "user", "content": text} for text in "abcde"])
    client.close_session(session.id)
    exported = io.BytesIO()
    export(client, exported)
    other = Engine(short_dir / "other").start()
    try:
        with armin.connect(other.directory) as there:
            others: list[ImportResult] = []

            def overtake(state: ImportProgress) -> None:
                if not others and state.messages == 2:
                    others.append(import_bytes(there, exported.getvalue()))

            result = import_bytes(there, exported.getvalue(), progress=overtake)
            assert (result.outcome, result.problems) == (Outcome.COMPLETE, ())
            assert (result.messages_added, others[0].messages_added) == (2, 3)
            assert contents(there) == [list("abcde")]
            assert there.session(1).closed
    finally:
        other.stop()


def test_a_foreign_message_behind_what_another_import_added_is_a_conflict_at_its_seq(
    client: armin.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 2)

    def interfere(state: ImportProgress) -> None:
        if state.messages == 2 and state.conversations == 0:
            client.append(1, "user", "c")
            client.append(1, "user", "me too")

    result = import_bytes(client, conversation(*"abcdef", id="x"), progress=interfere)
    assert contents(client) == [["a", "b", "c", "me too"]]
    assert [(problem.kind, problem.seq) for problem in result.problems] == [(ProblemKind.CONFLICT, 4)]


def test_two_imports_of_a_file_at_once_are_both_complete_and_double_nothing(
    engine: Engine, client: armin.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "BATCH_MESSAGES", 5)
    texts = [[f"{n} {turn}" for turn in range(12)] for n in range(150)]
    data = b"".join(conversation(*each) for each in texts)
    barrier = threading.Barrier(2)

    def run() -> ImportResult:
        with ExitStack() as stack:
            first, *lanes = [stack.enter_context(armin.connect(engine.directory)) for _ in range(4)]
            barrier.wait(60)
            return import_bytes(first, data, lanes=lanes)

    with ThreadPoolExecutor(2) as pool:
        results = [future.result(90) for future in [pool.submit(run) for _ in range(2)]]
    for result in results:
        assert (result.outcome, result.problems) == (Outcome.COMPLETE, ())
        assert result.messages_added + result.messages_present == 150 * 12
    assert sum(result.messages_added for result in results) == 150 * 12
    assert sum(result.created for result in results) == 150
    assert sorted(contents(client)) == sorted(texts)
