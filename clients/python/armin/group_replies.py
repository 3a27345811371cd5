"""Replies about worker groups, made into results."""

from __future__ import annotations

from armin import errors, replies
from armin.replies import Fields
from armin.results import DeadLetter, DeadLetterPage, Group, Lease, Leases, Outcome, Outcomes


def created(fields: Fields) -> Group:
    """Reply of `create_group`."""
    return _group(replies.table(fields, "group"), replies.duplicate(fields))


def groups(fields: Fields) -> tuple[Group, ...]:
    """Reply of `groups`."""
    return replies.each(fields, "groups", _group)


def _group(fields: Fields, duplicate: bool = False) -> Group:
    return Group(
        replies.text(fields, "group"),
        replies.text(fields, "start"),
        tuple(replies.array(fields, "types")),
        replies.truth(fields, "ordered"),
        replies.integer(fields, "max_attempts"),
        replies.integer(fields, "backoff_ms"),
        replies.text(fields, "on_dead"),
        replies.integer(fields, "created_at"),
        replies.integer(fields, "cursor"),
        replies.integer(fields, "behind"),
        replies.integer(fields, "waiting"),
        replies.integer(fields, "leased"),
        replies.integer(fields, "dead"),
        replies.truth(fields, "halted"),
        replies.integer(fields, "pollers"),
        duplicate,
    )


def leases(fields: Fields) -> Leases:
    """Reply of `lease`."""
    return Leases(replies.each(fields, "leases", _lease), replies.position(fields))


def _lease(fields: Fields) -> Lease:
    return Lease(
        replies.text(fields, "lease"),
        replies.integer(fields, "position"),
        replies.integer(fields, "attempt"),
        replies.integer(fields, "until"),
        replies.event(replies.table(fields, "event")),
    )


def outcomes(fields: Fields) -> Outcomes:
    """Reply of `ack`, `nack` and `extend`."""
    return Outcomes(replies.each(fields, "outcomes", _outcome), replies.position(fields))


def _outcome(fields: Fields) -> Outcome:
    ok = replies.truth(fields, "ok")
    return Outcome(
        replies.text(fields, "lease"),
        ok,
        replies.duplicate(fields),
        fields.get("dead") is True,
        replies.integer_or_none(fields, "until"),
        None if ok else errors.from_wire(replies.table(fields, "error"), None),
    )


def dead_letters(fields: Fields) -> DeadLetterPage:
    """Reply of `dead_letters`."""
    return DeadLetterPage(
        replies.each(fields, "dead_letters", _dead_letter),
        replies.truth(fields, "more"),
        replies.position(fields),
    )


def _dead_letter(fields: Fields) -> DeadLetter:
    return DeadLetter(
        replies.integer(fields, "position"),
        replies.integer(fields, "attempts"),
        replies.text_or_none(fields, "reason"),
        replies.integer(fields, "died_at"),
        replies.event(replies.table(fields, "event")),
    )


def requeued(fields: Fields) -> int:
    """Reply of `requeue`."""
    return replies.integer(fields, "requeued")


def discarded(fields: Fields) -> int:
    """Reply of `discard`."""
    return replies.integer(fields, "discarded")


def dropped(fields: Fields) -> bool:
    """Reply of `drop_group`."""
    return replies.truth(fields, "dropped")
