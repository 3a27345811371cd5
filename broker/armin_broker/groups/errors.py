"""What can go wrong with worker groups, besides the engine's errors."""

from __future__ import annotations

from typing import ClassVar

from armin_engine.errors import CommandError


class GroupNotFound(CommandError):
    """No worker group has this name."""

    code: ClassVar[str] = "group_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no worker group {name!r}", field="group")
