"""What an engine recovers and shows is on disk, even if the one before it died before it could sync."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from armin.torture.engine import KillPoint, TorturedEngine
from harness import Peer


@pytest.fixture
def tortured(short_dir: Path) -> Iterator[TorturedEngine]:
    engine = TorturedEngine(short_dir / "e", short_dir / "evidence")
    yield engine
    engine.kill()


def ask(engine: TorturedEngine, op: str, **fields: Any) -> dict[str, Any]:
    with Peer(f"ipc://{engine.directory}/commands.sock") as peer:
        return peer.ask(op, **fields)


def test_a_write_that_died_unsynced_and_is_then_acknowledged_survives_a_power_cut(
    tortured: TorturedEngine,
) -> None:
    if not tortured.can_cut:
        pytest.skip("power cuts are not possible here")
    write = {"session_id": 1, "role": "user", "content": "written, not synced", "key": "k"}
    tortured.start()
    assert ask(tortured, "create_session")["session"]["id"] == 1
    tortured.kill()
    tortured.start(die_at=KillPoint.UNSYNCED)
    with Peer(f"ipc://{tortured.directory}/commands.sock") as peer:
        peer.send("append", **write)
        assert tortured.wait_dead(60)
    tortured.start()
    again = ask(tortured, "append", **write)
    assert again["ok"], again
    tortured.power_cut(random.Random(1))
    tortured.start()
    kept = ask(tortured, "read", session_id=1)["messages"]
    assert [message["content"] for message in kept] == ["written, not synced"]
