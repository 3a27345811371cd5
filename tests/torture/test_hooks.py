"""The hooks hold on to the engine as it is."""

from __future__ import annotations

import pytest

from armin.torture import hooks
from armin.torture.orders import Sabotage


class Changed:
    """An engine whose parts were renamed."""

    value = 1


@pytest.mark.parametrize("name", ["gone", "value"])
def test_a_part_that_is_gone_is_an_error(name: str) -> None:
    with pytest.raises(hooks.HookLost, match=name):
        hooks._around(Changed, name)


def test_every_sabotage_can_be_done() -> None:
    assert set(hooks.SABOTAGES) == set(Sabotage)
