"""The protocol's data agrees with what the broker and the engine do."""

from __future__ import annotations

import pytest

from armin_broker import commands, protocol
from armin_engine import errors, limits, records


def test_every_limit_that_the_engine_holds_is_the_protocols() -> None:
    engine = {name: value for name, value in vars(limits).items() if name.isupper()}
    shared = engine.keys() & vars(protocol).keys() - {"PAGE_BYTES_MAX"}
    assert len(shared) >= 10
    assert {name: engine[name] for name in shared} == {name: getattr(protocol, name) for name in shared}


def test_packed_items_of_a_page_leave_room_for_the_rest_of_the_reply() -> None:
    assert protocol.PAGE_BYTES_MAX - 1024 >= limits.PAGE_BYTES_MAX


def test_roles_and_event_types_are_the_engines() -> None:
    assert protocol.ROLES == records.ROLES
    assert set(records.EVENT_TYPES.values()) == {
        protocol.SESSION_CREATED,
        protocol.MESSAGE_APPENDED,
        protocol.SESSION_CLOSED,
    }


def test_every_op_has_its_verb_and_every_verb_its_op() -> None:
    assert {*commands._VERBS, "hello"} == protocol.OPS.keys(), "hello is answered from who asks"


def test_every_error_of_the_engine_has_a_code_of_the_protocol() -> None:
    def tree(base: type[errors.EngineError]) -> set[type[errors.EngineError]]:
        return {base}.union(*(tree(sub) for sub in base.__subclasses__()))

    assert {error.code for error in tree(errors.EngineError)} <= set(protocol.ErrorCode)


@pytest.mark.parametrize("topic", [*protocol.FACT_TOPICS, protocol.HEARTBEAT_TOPIC, protocol.GOODBYE_TOPIC])
def test_sync_sorts_behind_every_other_topic(topic: bytes) -> None:
    # libzmq sends subscriptions made before the connection in byte order: when the sync is heard,
    # every other subscription has arrived.
    assert protocol.sync_topic("0") > topic


def test_topics_of_a_session_match_their_families() -> None:
    topics = protocol.created_topic(7), protocol.message_topic(7), protocol.closed_topic(7)
    assert topics == (b"created/7/", b"message/7/", b"closed/7/")
    assert all(topic.startswith(family) for topic, family in zip(topics, protocol.FACT_TOPICS, strict=True))
