"""What an engine that was killed leaves behind of what it had begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from armin.torture import vfs
from armin.torture.engine import Fault, KillPoint, TorturedEngine
from harness import Peer

pytestmark = pytest.mark.skipif(vfs.why_not() is not None, reason=f"no shim here: {vfs.why_not()}")

DEAD_S = 60.0


@pytest.fixture
def tortured(short_dir: Path) -> Iterator[TorturedEngine]:
    engine = TorturedEngine(short_dir / "e", short_dir / "v")
    engine.start()
    yield engine
    engine.kill()


def commands(engine: TorturedEngine) -> Peer:
    return Peer(f"ipc://{engine.directory}/commands.sock")


def append(peer: Peer, text: str) -> dict[str, Any]:
    return peer.ask("append", session_id=1, role="user", content=text)


@pytest.mark.parametrize("fault", [Fault.FULL_WAL, Fault.SYNC_WAL])
def test_a_write_refused_before_a_kill_is_whole_or_not_there(tortured: TorturedEngine, fault: Fault) -> None:
    with commands(tortured) as peer:
        assert peer.ask("create_session")["ok"]
        assert append(peer, "before")["ok"]
        tortured.fail(fault)
        assert append(peer, "refused")["error"]["code"] == "storage_failed"
    tortured.kill()
    tortured.fail(None)
    tortured.start()
    with commands(tortured) as peer:
        recovered = [message["content"] for message in peer.ask("read", session_id=1)["messages"]]
        assert recovered in (["before"], ["before", "refused"])
        assert append(peer, "after")["seq"] == len(recovered) + 1


@pytest.mark.parametrize("well_again", [True, False])
def test_a_write_refused_for_its_sync_is_dropped_by_a_stop_on_a_well_disk_alone(
    tortured: TorturedEngine, well_again: bool
) -> None:
    """On one that fails on, SQLite cannot clean up, and the next engine finds what the WAL holds."""
    with commands(tortured) as peer:
        assert peer.ask("create_session")["ok"]
        tortured.fail(Fault.SYNC_WAL)
        assert append(peer, "refused")["error"]["code"] == "storage_failed"
    if well_again:
        tortured.fail(None)
    assert tortured.stop() == 0
    tortured.fail(None)
    tortured.start()
    with commands(tortured) as peer:
        recovered = [message["content"] for message in peer.ask("read", session_id=1)["messages"]]
    assert recovered == ([] if well_again else ["refused"])


def test_a_lease_that_was_committed_outlives_the_engine(tortured: TorturedEngine) -> None:
    with commands(tortured) as peer:
        assert peer.ask("create_session")["ok"]
        assert append(peer, "work")["ok"]
        assert peer.ask("create_group", group="g", start="begin", types=["message_appended"])["ok"]
    tortured.kill()
    tortured.start(die_at=KillPoint.LEASED)
    with commands(tortured) as peer:
        peer.send("lease", group="g", lease_ms=60_000, request="r")
        assert tortured.wait_dead(DEAD_S)
    assert tortured.died_at is KillPoint.LEASED
    tortured.start()
    with commands(tortured) as peer:
        (group,) = peer.ask("groups")["groups"]
        assert (group["leased"], group["waiting"]) == (1, 0)
        (lease,) = peer.ask("lease", group="g", lease_ms=60_000, request="r")["leases"]
        assert lease["attempt"] == 1, "the same lease again, for the same request"
