"""Every method against a real engine, on the blocking and on the asyncio client alike."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Iterator
from typing import Any, cast

import pytest

import armin
from armin import Client, NewMessage
from harness import Engine


class Blocking:
    """The asyncio client, driven from outside its loop, so that one test runs on both."""

    def __init__(self, client: armin.AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            return self._iterate(result) if inspect.isasyncgen(result) else self._runner.run(result)

        return call

    def _iterate(self, items: AsyncGenerator[Any, None]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items)

        try:
            while True:
                try:
                    yield self._runner.run(following())
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(cast(Any, items.aclose()))

    def done(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["blocking", "asyncio"])
def client(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Client]:
    if request.param == "blocking":
        with armin.connect(engine.directory) as client:
            yield client
    else:
        blocking = Blocking(armin.connect_async(engine.directory))
        yield cast(Client, blocking)
        blocking.done()


def filled(client: Client, count: int) -> int:
    session = client.create_session()
    client.append_many(session.id, [NewMessage("user", f"text {n}") for n in range(1, count + 1)])
    return session.id


# --- the engine -----------------------------------------------------------------------------------


def test_hello_says_who_the_engine_is(client: Client, engine: Engine) -> None:
    hello = client.hello()
    assert hello.protocol == "armin/1"
    assert hello.limits["content_bytes"] == 16 << 20
    assert hello.endpoints["ipc"]["live"] == str(engine.directory.resolve() / "live.sock")
    assert hello.durability["synchronous"].lower() == "full"
    assert hello.position == 0
    assert client.hello() == hello


def test_ping_and_sync_give_the_last_committed_position(client: Client) -> None:
    assert client.ping() == 0
    filled(client, 2)
    assert client.ping() == client.sync("token1") == 3


def test_stats_counts_what_is_there(client: Client) -> None:
    filled(client, 2)
    stats = client.stats()
    assert (stats["sessions"], stats["messages"], stats["position"]) == (1, 2, 3)
    assert "ok" not in stats


def test_verify_waits_for_the_comparison(client: Client) -> None:
    filled(client, 2)
    report = client.verify()
    assert (report.equal, report.position, report.checked, report.differences) == (True, 3, 3, ())


# --- writes ---------------------------------------------------------------------------------------


def test_a_session_has_what_it_was_made_with(client: Client) -> None:
    session = client.create_session("chat/1", {"title": "T", "n": [1, 2.5, None, True]})
    assert (session.id, session.name, session.closed, session.seq) == (1, "chat/1", False, 0)
    assert session.meta == {"title": "T", "n": [1, 2.5, None, True]}
    assert session.position == 1
    assert session.created_at > 1_600_000_000_000
    assert client.session(1) == client.session(name="chat/1") == session


def test_a_name_is_made_once(client: Client) -> None:
    first = client.create_session("chat/1", {"a": 1})
    again = client.create_session("chat/1", {"b": 2})
    assert (again.id, again.duplicate, again.meta) == (first.id, True, {"a": 1})
    assert not first.duplicate


def test_an_append_says_where_the_message_went(client: Client) -> None:
    session = client.create_session()
    appended = client.append(session.id, "user", "hello", {"k": "v"})
    assert (appended.id, appended.seq, appended.at, appended.position) == (1, 1, 2, 2)
    [message] = client.read(session.id).messages
    assert message == armin.Message(1, session.id, 1, "user", "hello", appended.created_at, {"k": "v"})


def test_many_messages_are_appended_as_one(client: Client) -> None:
    session = client.create_session()
    appended = client.append_many(
        session.id, [{"role": "user", "content": "a"}, NewMessage("tool", "b", {"k": 1})], expect_seq=1
    )
    assert (appended.first_id, appended.first_seq, appended.first_at, appended.count) == (1, 1, 2, 2)
    assert [(m.role, m.content, m.meta) for m in client.read(session.id).messages] == [
        ("user", "a", None),
        ("tool", "b", {"k": 1}),
    ]
    with pytest.raises(armin.BadRequest) as caught:
        client.append_many(session.id, [NewMessage("user", "c"), NewMessage("nobody", "d")])
    assert caught.value.field == "messages[1].role"
    assert client.session(session.id).seq == 2


def test_content_of_any_script_comes_back_as_it_was(client: Client) -> None:
    session = client.create_session()
    for content in ("", "\0", "é", "日本語", "🙂" * 1000, "line\r\n\tend", "x" * 3_000_000):
        client.append(session.id, "assistant", content)
        [message] = client.read(session.id, before=(1 << 63) - 1, limit=1).messages
        assert message.content == content


def test_a_closed_session_takes_no_more_and_says_so(client: Client) -> None:
    session_id = filled(client, 1)
    closed = client.close_session(session_id)
    assert (closed.at, closed.duplicate) == (3, False)
    again = client.close_session(session_id)
    assert (again.at, again.duplicate) == (3, True)
    with pytest.raises(armin.SessionClosed) as caught:
        client.append(session_id, "user", "late")
    assert (caught.value.field, caught.value.position) == ("session_id", 3)


def test_an_unexpected_place_is_a_conflict(client: Client) -> None:
    session_id = filled(client, 1)
    with pytest.raises(armin.Conflict) as caught:
        client.append(session_id, "user", "x", expect_seq=1)
    assert caught.value.reason == "expect_seq"
    assert client.append(session_id, "user", "x", expect_seq=2).seq == 2


@pytest.mark.parametrize(
    "op", ["append", "append_many", "close_session", "session", "read", "tails", "delta"]
)
def test_an_unknown_session_is_not_found(client: Client, op: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "append": (9, "user", "x"),
        "append_many": (9, [NewMessage("user", "x")]),
        "tails": ([9],),
    }
    with pytest.raises(armin.SessionNotFound):
        getattr(client, op)(*arguments.get(op, (9,)))


def test_what_the_engine_refuses_names_field_and_limit(client: Client) -> None:
    session_id = filled(client, 1)
    with pytest.raises(armin.BadRequest) as refused:
        client.append(session_id, "nobody", "x")
    assert refused.value.field == "role"
    with pytest.raises(armin.TooLarge) as large:
        client.append(session_id, "user", "x" * ((16 << 20) + 1))
    assert (large.value.field, large.value.limit) == ("content", 16 << 20)


# --- reads ----------------------------------------------------------------------------------------


def test_a_session_is_read_forwards_and_backwards(client: Client) -> None:
    session_id = filled(client, 10)
    page = client.read(session_id, after=3, limit=2)
    assert [m.seq for m in page.messages] == [4, 5]
    assert (page.more, page.seq, page.closed, page.position) == (True, 10, False, 11)
    page = client.read(session_id, before=3, limit=5)
    assert [m.seq for m in page.messages] == [1, 2]
    assert not page.more


def test_a_cursor_ahead_of_the_session_is_invalid(client: Client) -> None:
    session_id = filled(client, 1)
    with pytest.raises(armin.CursorInvalid):
        client.read(session_id, after=2)
    with pytest.raises(armin.CursorInvalid):
        client.log(after=3)


def test_sessions_are_listed_in_pages_and_by_whether_they_are_closed(client: Client) -> None:
    ids = [client.create_session().id for _ in range(5)]
    client.close_session(ids[2])
    page = client.sessions(limit=2)
    assert ([s.id for s in page.sessions], page.more, page.position) == (ids[:2], True, 6)
    assert [s.id for s in client.sessions(after=ids[1], closed=False).sessions] == [ids[3], ids[4]]
    assert [s.id for s in client.sessions(closed=True).sessions] == [ids[2]]
    assert [s.id for s in client.sessions(before=ids[4], limit=2).sessions] == [ids[2], ids[3]]


def test_tails_say_where_sessions_end(client: Client) -> None:
    first, second = filled(client, 3), filled(client, 1)
    client.close_session(second)
    tails = client.tails(iter([second, first]))
    assert tails.tails == (armin.Tail(second, 1, True), armin.Tail(first, 3, False))
    assert tails.position == 7


def test_snapshot_and_delta_make_up_the_session(client: Client) -> None:
    session_id = filled(client, 3)
    assert client.refresh_snapshot() == armin.Refreshed(4, 4)
    client.append(session_id, "user", "text 4")
    snapshot = client.snapshot(session_id)
    delta = client.delta(session_id, snapshot_position=snapshot.snapshot_position)
    assert [m.seq for m in (*snapshot.messages, *delta.messages)] == [1, 2, 3, 4]
    assert (snapshot.snapshot_position, snapshot.snapshot_seq, snapshot.more) == (4, 3, False)
    assert [m.seq for m in client.snapshot(session_id, after=1, limit=1).messages] == [2]
    client.refresh_snapshot()
    with pytest.raises(armin.Conflict) as caught:
        client.delta(session_id, snapshot_position=snapshot.snapshot_position)
    assert caught.value.reason == "snapshot_moved"


def test_the_log_has_every_fact_in_order(client: Client) -> None:
    session = client.create_session("n", {"m": 1})
    appended = client.append(session.id, "user", "a", {"k": 1})
    client.close_session(session.id)
    message = armin.Message(appended.id, session.id, 1, "user", "a", appended.created_at, {"k": 1})
    assert client.log().events == (
        armin.Event(1, "session_created", session.id, None, session.created_at, "n", {"m": 1}),
        armin.Event(2, "message_appended", session.id, message, appended.created_at),
        armin.Event(3, "session_closed", session.id),
    )
    page = client.log(after=1, limit=1)
    assert ([e.position for e in page.events], page.more, page.position) == ([2], True, 3)


def test_a_whole_history_is_paged_through(client: Client) -> None:
    session_id = filled(client, 2500)
    assert [m.seq for m in client.messages(session_id)] == list(range(1, 2501))
    assert [m.seq for m in client.messages(session_id, after=2400)] == list(range(2401, 2501))
    assert [e.position for e in client.events()] == list(range(1, 2502))
    assert [e.position for e in client.events(2400)] == list(range(2401, 2502))
    assert list(client.messages(client.create_session().id)) == []


def test_a_history_of_large_messages_is_paged_through(client: Client) -> None:
    session_id = client.create_session().id
    for _ in range(4):
        client.append(session_id, "user", "x" * 700_000)
    assert [len(m.content) for m in client.messages(session_id)] == [700_000] * 4


# --- effects --------------------------------------------------------------------------------------


def test_effects_are_the_facts_in_order_and_end_after_the_timeout(client: Client) -> None:
    session_id = filled(client, 3)
    client.close_session(session_id)
    facts = list(client.events())
    effects = client.effects(timeout=60)
    assert [next(effects) for _ in facts] == facts
    effects.close()
    assert list(client.effects(timeout=0.5)) == []


def test_an_effect_of_a_large_message_is_elided(client: Client) -> None:
    session_id = client.create_session().id
    client.append(session_id, "user", "x" * 70_000, {"k": 1})
    effects = client.effects(timeout=60)
    next(effects)
    message = next(effects).message
    effects.close()
    assert message is not None
    assert (message.elided, message.content, message.meta, message.seq) == (True, "", None, 1)
    assert not next(iter(client.messages(session_id))).elided
