"""The commands about worker groups, as the blocking client has them; the asyncio one has the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import armin
from armin import group_calls
from harness import Engine


@pytest.fixture
def client(engine: Engine) -> Iterator[armin.Client]:
    with armin.connect(engine.directory) as client:
        yield client


def sessions(client: armin.Client, count: int) -> None:
    for _ in range(count):
        client.create_session()


def test_a_group_is_created_once_and_shown(client: armin.Client) -> None:
    sessions(client, 3)
    made = client.create_group("g", types=["session_created"], ordered=True, backoff_ms=7)
    assert (made.group, made.start, made.types) == ("g", "begin", ("session_created",))
    assert (made.ordered, made.max_attempts, made.backoff_ms, made.on_dead) == (True, 5, 7, "skip")
    assert (made.waiting + made.behind, made.leased, made.dead, made.halted) == (3, 0, 0, False)
    assert not made.duplicate
    again = client.create_group("g", types=["session_created"], ordered=True, backoff_ms=7)
    assert again.duplicate
    with pytest.raises(armin.Conflict) as caught:
        client.create_group("g", types=["session_created"])
    assert (caught.value.reason, caught.value.field) == ("settings", "ordered")
    client.create_group("h", start="now")
    assert [group.group for group in client.groups()] == ["g", "h"]
    assert [group.group for group in client.groups("h")] == ["h"]
    assert client.drop_group("h") is True
    assert client.drop_group("h") is False
    with pytest.raises(armin.GroupNotFound):
        client.groups("h")


def test_effects_are_leased_extended_acked_and_given_back(client: armin.Client) -> None:
    sessions(client, 3)
    client.create_group("g", max_attempts=1)
    taken = client.lease("g", max=3, request="token")
    assert [lease.position for lease in taken.leases] == [1, 2, 3]
    assert [lease.attempt for lease in taken.leases] == [1, 1, 1]
    assert taken.leases[0].event.type == "session_created"
    assert client.lease("g", max=3, request="token") == taken
    one, two, three = taken.leases
    [extended] = client.extend("g", [one], lease_ms=90_000).outcomes
    assert extended.ok
    assert extended.until is not None
    assert extended.until > one.until
    [acked] = client.ack("g", [one.lease]).outcomes
    assert (acked.lease, acked.ok, acked.duplicate) == (one.lease, True, False)
    again, second = client.ack("g", [one, two]).outcomes
    assert (again.ok, again.duplicate, second.ok, second.duplicate) == (True, True, True, False)
    [given_up] = client.nack("g", [three], reason="no way").outcomes
    assert (given_up.ok, given_up.dead) == (True, True)
    [late] = client.ack("g", [three]).outcomes
    assert not late.ok
    assert isinstance(late.error, armin.LeaseLost)
    [letter] = client.dead_letters("g").dead_letters
    assert (letter.position, letter.attempts, letter.reason) == (3, 1, "no way")
    assert letter.event.session_id == 3
    assert client.requeue("g", [3]) == 1
    [fourth] = client.lease("g").leases
    assert (fourth.position, fourth.attempt) == (3, 1)
    client.nack("g", [fourth])
    assert client.discard("g") == 1
    assert client.dead_letters("g").dead_letters == ()


def test_a_lease_waits_for_something_on_a_connection_of_its_own(engine: Engine) -> None:
    async def both() -> armin.Leases:
        async with armin.connect_async(engine.directory, timeout=60) as client:
            await client.create_group("g")
            waiting = asyncio.create_task(client.lease("g", wait_ms=30_000))
            while not (await client.groups("g"))[0].pollers:
                await asyncio.sleep(0.005)
            await client.create_session()
            return await waiting

    assert [lease.position for lease in asyncio.run(both()).leases] == [1]


def test_a_wait_may_be_longer_than_the_clients_timeout(engine: Engine) -> None:
    with armin.connect(engine.directory, timeout=2.0) as client:
        client.create_group("g")
        assert client.lease("g", wait_ms=4000).leases == ()


def test_several_leases_or_types_are_not_one_string() -> None:
    with pytest.raises(armin.BadRequest):
        group_calls.ack("g", "1.1.1")
    with pytest.raises(armin.BadRequest):
        group_calls.create_group("g", "begin", "session_created", False, 5, 1000, "skip")
