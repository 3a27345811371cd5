"""One taken effect: a fact that a group has taken from the log and that is not acknowledged yet."""

from __future__ import annotations

from typing import Final, NamedTuple

WAITING: Final = 1  # to be leased once it is due
LEASED: Final = 2
DEAD: Final = 3  # failed max_attempts times; kept until requeued or discarded
STATES: Final = (WAITING, LEASED, DEAD)


class Effect(NamedTuple):
    """How an effect stands; a change makes a new one.

    due: milliseconds since the epoch at which it may be leased, its lease ends, or it died.
    attempts: leases that count, the present one included. deliveries: all leases ever given for it.
    lease: the present lease, empty without one. request: the token of the poll that leased it.
    reason: why the last attempt failed.
    """

    position: int
    session_id: int
    state: int
    attempts: int
    deliveries: int
    due: int
    lease: str = ""
    request: str | None = None
    reason: str | None = None


def lease_name(group_id: int, position: int, deliveries: int) -> str:
    """The lease of one delivery; never the same for two, as neither group ids nor deliveries come again."""
    return f"{group_id}.{position}.{deliveries}"
