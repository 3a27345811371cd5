"""What can be asked about worker groups: each function makes one call, without sending it."""

from __future__ import annotations

from collections.abc import Iterable

from armin import group_replies, pages
from armin.calls import Call
from armin.errors import BadRequest
from armin.results import DeadLetterPage, Group, Lease, Leases, Outcomes


def create_group(
    group: str,
    start: str,
    types: Iterable[str] | None,
    ordered: bool,
    max_attempts: int,
    backoff_ms: int,
    on_dead: str,
) -> Call[Group]:
    """Create a worker group, or find the one of this name and these settings."""
    fields = {
        "group": group,
        "start": start,
        "types": None if types is None else _strings(types, "types"),
        "ordered": ordered,
        "max_attempts": max_attempts,
        "backoff_ms": backoff_ms,
        "on_dead": on_dead,
    }
    return Call("create_group", fields, group_replies.created)


def lease(group: str, most: int, lease_ms: int, wait_ms: int = 0, request: str | None = None) -> Call[Leases]:
    """Take effects, at most so many, waiting for the first one up to `wait_ms`."""
    fields = {"group": group, "max": most, "lease_ms": lease_ms, "wait_ms": wait_ms, "request": request}
    return Call("lease", fields, group_replies.leases, pages.leases)


def ack(group: str, leases: Iterable[Lease | str]) -> Call[Outcomes]:
    """Say that effects were handled."""
    fields = {"group": group, "leases": _leases(leases)}
    return Call("ack", fields, group_replies.outcomes, pages.outcomes)


def nack(
    group: str, leases: Iterable[Lease | str], reason: str | None = None, delay_ms: int | None = None
) -> Call[Outcomes]:
    """Say that effects could not be handled."""
    fields = {"group": group, "leases": _leases(leases), "reason": reason, "delay_ms": delay_ms}
    return Call("nack", fields, group_replies.outcomes, pages.outcomes)


def extend(group: str, leases: Iterable[Lease | str], lease_ms: int) -> Call[Outcomes]:
    """Keep effects for longer."""
    fields = {"group": group, "leases": _leases(leases), "lease_ms": lease_ms}
    return Call("extend", fields, group_replies.outcomes, pages.outcomes)


def _leases(leases: Iterable[Lease | str]) -> list[str]:
    if isinstance(leases, Lease):
        leases = (leases,)
    names = (lease.lease if isinstance(lease, Lease) else lease for lease in leases)
    return _strings(leases if isinstance(leases, str) else names, "leases")


def _strings(values: Iterable[str], field: str) -> list[str]:
    if isinstance(values, str):  # which is an iterable of strings, too
        raise BadRequest(f"{field} is one string, not several; put it in a list", field=field)
    return list(values)


def groups(group: str | None) -> Call[tuple[Group, ...]]:
    """One worker group, or all."""
    return Call("groups", {"group": group}, group_replies.groups)


def dead_letters(group: str, after: int | None, limit: int | None) -> Call[DeadLetterPage]:
    """A page of a group's dead letters."""
    fields = {"group": group, "after": after, "limit": limit}
    return Call("dead_letters", fields, group_replies.dead_letters)


def requeue(group: str, positions: Iterable[int] | None) -> Call[int]:
    """Try dead letters again."""
    return Call("requeue", {"group": group, "positions": _positions(positions)}, group_replies.requeued)


def discard(group: str, positions: Iterable[int] | None) -> Call[int]:
    """Give dead letters up for good."""
    return Call("discard", {"group": group, "positions": _positions(positions)}, group_replies.discarded)


def _positions(positions: Iterable[int] | None) -> list[int] | None:
    return None if positions is None else list(positions)


def drop_group(group: str) -> Call[bool]:
    """Remove a group and all its state."""
    return Call("drop_group", {"group": group}, group_replies.dropped)
