"""Workers that are killed all the time lose nothing; see tests/killed_workers.py, which also runs by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from killed_workers import Campaign


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
def test_everything_is_handled_though_workers_and_the_engine_are_killed(
    short_dir: Path, ordered: bool
) -> None:
    campaign = Campaign(short_dir, 2000, ordered=ordered, every=0.4, seed=7)
    report = campaign.run()
    assert report.handled == report.effects
    assert report.engine_kills == 2
    assert report.kills >= 3
    assert report.handled_twice < report.effects / 4
    # Without `ordered` the same check finds plenty.
    assert bool(report.out_of_order(campaign.killed_at)) is not ordered
