"""What can go wrong with worker groups, besides the engine's errors."""

from __future__ import annotations

from typing import ClassVar

from armin_broker import protocol
from armin_engine.errors import CommandError, TooLarge


class GroupNotFound(CommandError):
    """No worker group has this name."""

    code: ClassVar[str] = "group_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no worker group {name!r}", field="group")


class TooManyPolls(TooLarge):
    """As many leases as may be are waited for already; that passes."""

    retry = True

    def __init__(self) -> None:
        super().__init__(
            f"{protocol.POLLS_MAX} leases are waited for already", field="polls", limit=protocol.POLLS_MAX
        )
