"""Figures of an engine for human eyes: units, rates, durations, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from armin.results import Group

NONE: Final = "-"  # not known: nothing has happened yet, or the engine is too old to say
BLOCKS: Final = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS: Final = "_.:-=+*#"

_UNITS: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_LONGER: Final = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


class Stats(dict[str, Any]):
    """The reply to `stats`; a name that an older engine does not know is None."""

    def __missing__(self, name: str) -> None:
        return None


def amount(number: float | None) -> str:
    """A whole number."""
    return NONE if number is None else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """So many a second."""
    return NONE if number is None else f"{number:,.1f}" if 0 < number < 10 else f"{number:,.0f}"


def size(count: int | None) -> str:
    """Bytes."""
    if count is None:
        return NONE
    return next((f"{count / unit:,.1f} {name}" for unit, name in _UNITS if count >= unit), f"{count} B")


def share(part: int | None, whole: int | None) -> float:
    """How much of it, 0 to 1 or more."""
    return part / whole if part and whole else 0.0


def milliseconds(number: float | None) -> str:
    """A short time, three digits of it."""
    if number is None:
        return NONE
    if number >= 1000:
        return f"{number / 1000:,.1f} s"
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} ms"


def duration(number: float) -> str:
    """A long time, from milliseconds."""
    seconds = int(number // 1000)
    for each, unit, part, part_unit in _LONGER:
        if seconds >= each:
            return f"{seconds // each} {unit} {seconds % each // part} {part_unit}"
    return f"{seconds} s"


def sparkline(numbers: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """The last of them as a row of bars, the largest one full; what is 0 has none."""
    shown = numbers[-width:] if width > 0 else ()
    most = max(shown, default=0)
    levels = len(blocks) - 1
    bars = (blocks[round(number / most * levels)] if number > 0 else " " for number in shown)
    return "".join(bars).rjust(max(width, 0))


def group_state(group: Group) -> str:
    """In a word."""
    return "halted" if group.halted else "busy" if group.leased else "idle"


# What an operator should know about; each is zero on a good day.
_COUNTED: Final = (
    ("commits_failed", "commits failed"),
    ("backups_failed", "backups failed"),
    ("replies_lost", "replies lost"),
    ("heals", "reads that healed a follower"),
    ("effects_failed", "effects failed"),
    ("dead", "dead letters"),
    ("connections_refused", "connections refused"),
    ("handshakes_failed", "peers without a good key"),
    ("not_authorized", "commands not authorized"),
)


def trouble(stats: Mapping[str, Any]) -> list[str]:
    """What there is of it, since the start; but dead letters, as they are now."""
    return [f"{stats[name]:,} {what}" for name, what in _COUNTED if stats.get(name)]


REASONS: Final = {
    "commits_failing": "COMMITS FAIL",
    "memory_over_budget": "OVER THE MEMORY BUDGET: the next start would be refused",
}


def state(stats: Mapping[str, Any], reasons: Sequence[str] = ()) -> str:
    """In a line; `reasons` are those of `health`."""
    refused = stats.get("writes_refused")
    if refused is not None:
        return f"serving reads, REFUSING ALL WRITES ({refused}); its log says what to do"
    return "; ".join(("serving", *(REASONS.get(reason, reason) for reason in reasons)))
