"""The checks: each takes the testimony of a campaign and yields, in words, what should not be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from armin.torture.facts import Fact
from armin.torture.handling import ORDERED
from armin.torture.testimony import Follow, Handling, Outcome, Testimony, Write
from armin_broker.protocol import MESSAGE_APPENDED, SESSION_CLOSED, SESSION_CREATED

Check = Callable[[Testimony], Iterator[str]]


def acknowledged_once(testimony: Testimony) -> Iterator[str]:
    """Every acknowledged write is in the log once, with what was acknowledged."""
    log, times = _by_tag(testimony.rest.file)
    closed = {fact.session_id: fact.position for fact in testimony.rest.file if fact.type == SESSION_CLOSED}
    for write in testimony.writes.values():
        if write.outcome is not Outcome.ACKNOWLEDGED:
            continue
        if write.op == "close_session":
            if closed.get(write.session_id) != write.reply["at"]:
                yield (
                    f"{write.name}: closing session {write.session_id} was acknowledged at "
                    f"{write.reply['at']}; the log has it at {closed.get(write.session_id)}"
                )
            continue
        for tag in write.tags():
            if times[tag] != 1:
                yield f"{tag} was acknowledged and is in the log {times[tag]} times"
        if write.op == "create_session":
            yield from _created_as_acknowledged(write, log)
        else:
            yield from (
                f"{fact.tag} was acknowledged as {fact.row()}; the log has {_shown(log, fact.tag)}"
                for fact in write.facts()
                if fact.tag in log and log[fact.tag].row() != fact.row()
            )
            if write.reply["count"] != len(write.digests):
                yield f"{write.name}: {write.reply['count']} of {len(write.digests)} messages acknowledged"


def _created_as_acknowledged(write: Write, log: Mapping[str | None, Fact]) -> Iterator[str]:
    fact = log.get(write.name)
    said = (write.reply["id"], write.reply["created_at"], write.digests[0])
    if fact is not None and (fact.session_id, fact.created_at, fact.digest) != said:
        yield f"{write.name} was acknowledged as session {said}; the log has {fact.row()}"


def written_once(testimony: Testimony) -> Iterator[str]:
    """Whatever became of a write: at most once, whole or not at all; one that was refused is not there."""
    _, times = _by_tag(testimony.rest.file)
    for write in testimony.writes.values():
        if write.op == "close_session":
            continue
        there = [times[tag] for tag in write.tags()]
        if max(there) > 1 and write.outcome is not Outcome.ACKNOWLEDGED:
            yield f"{write.name} ({write.outcome.name.lower()}) is in the log {max(there)} times"
        if min(there) == 0 and max(there) > 0:
            yield f"{write.name} is in the log in part: {there}"
        if write.outcome is Outcome.REFUSED and max(there) > 0:
            yield f"{write.name} was refused and is in the log"


def nothing_else(testimony: Testimony) -> Iterator[str]:
    """The log holds nothing that nobody wrote, and what it holds is what was written."""
    written = {
        tag: digest
        for write in testimony.writes.values()
        for tag, digest in zip(write.tags(), write.digests, strict=True)
    }
    closed = {write.session_id for write in testimony.writes.values() if write.op == "close_session"}
    for fact in testimony.rest.file:
        if fact.type == SESSION_CLOSED:
            if fact.session_id not in closed:
                yield f"position {fact.position}: nobody closed session {fact.session_id}"
        elif fact.tag not in written:
            yield f"position {fact.position}: nobody wrote {fact.row()}"
        elif written[fact.tag] != fact.digest:
            yield f"position {fact.position}: {fact.tag} is not what was written"


def in_order(testimony: Testimony) -> Iterator[str]:
    """What a writer had acknowledged in one session stands there in the order in which it wrote."""
    last: dict[tuple[str, int], tuple[int, str]] = {}
    for write in testimony.writes.values():
        if write.outcome is not Outcome.ACKNOWLEDGED or "first" not in write.reply:
            continue
        place = (write.writer, write.session_id)
        at = write.reply["first"][2]
        before, name = last.get(place, (0, ""))
        if at <= before:
            yield f"{write.name} is at {at}, before {name} at {before}, which was written earlier"
        last[place] = (at, write.name)


def dense(testimony: Testimony) -> Iterator[str]:
    """Positions run from 1 without a hole, seqs do in every session, ids only grow."""
    seqs: dict[int, int] = defaultdict(int)
    last_id = 0
    for expected, fact in enumerate(testimony.rest.engine, start=1):
        if fact.position != expected:
            yield f"the engine's log has position {fact.position} in place {expected}"
        if fact.type == MESSAGE_APPENDED:
            seqs[fact.session_id] += 1
            if fact.seq != seqs[fact.session_id]:
                yield f"position {fact.position}: seq {fact.seq}, not {seqs[fact.session_id]}"
            if fact.message_id <= last_id:
                yield f"position {fact.position}: id {fact.message_id} after {last_id}"
            last_id = fact.message_id
    for session_id, (_, seq) in testimony.rest.sessions.items():
        if seq != seqs[session_id]:
            yield f"session {session_id} says that it ends at seq {seq}; its last is {seqs[session_id]}"


def closed_for_good(testimony: Testimony) -> Iterator[str]:
    """A session is closed if the log says so, in memory and in the file; nothing comes after that."""
    known: dict[int, bool] = {}
    for fact in testimony.rest.file:
        if fact.type == SESSION_CREATED:
            known[fact.session_id] = False
        elif fact.session_id not in known:
            yield f"position {fact.position}: session {fact.session_id} was never created"
        elif known[fact.session_id]:
            yield f"position {fact.position}: session {fact.session_id} was closed before"
        elif fact.type == SESSION_CLOSED:
            known[fact.session_id] = True
    told = {session_id: closed for session_id, (closed, _) in testimony.rest.sessions.items()}
    for source, states in (("engine", told), ("file", testimony.rest.file_sessions)):
        for session_id in known.keys() | states.keys():
            if states.get(session_id) != known.get(session_id):
                yield (
                    f"session {session_id}: closed is {states.get(session_id)} in the {source} "
                    f"and {known.get(session_id)} in the log"
                )


def memory_is_file(testimony: Testimony) -> Iterator[str]:
    """What the engine tells is what the file holds; verify, SQLite and the digest chain find nothing."""
    engine, file = testimony.rest.engine, testimony.rest.file
    if len(engine) != len(file):
        yield f"the engine tells {len(engine)} facts, the file has {len(file)}"
    for told, stored in zip(engine, file, strict=False):
        if told.row() != stored.row():
            yield f"position {stored.position}: the engine tells {told.row()}, the file has {stored.row()}"
    yield from testimony.rest.faults


def keys_kept(testimony: Testimony) -> Iterator[str]:
    """Every acknowledged write's key, where the writer chose it, is kept with the place of what it wrote."""
    kept = {(key, session_id): (position, many) for key, session_id, position, many in testimony.rest.keys}
    created = {fact.session_id: fact.position for fact in testimony.rest.file if fact.type == SESSION_CREATED}
    for write in testimony.writes.values():
        if write.outcome is not Outcome.ACKNOWLEDGED or write.op == "close_session" or not write.own_key:
            continue
        if write.op == "create_session":
            place, expected = (write.name, 0), (created.get(write.reply["id"]), 1)
        else:
            place = (write.name, write.session_id)
            expected = (write.reply["first"][2], write.reply["count"])
        if kept.get(place) != expected:
            yield f"{write.name}: its key is kept with {kept.get(place)}, not with {expected}"


def followed_whole(testimony: Testimony) -> Iterator[str]:
    """Every follower was given each item once, in order, from the first to the last, as the log has it."""
    sessions = _by_session(testimony.rest.file)
    for follow in testimony.follows.values():
        if follow.of_log:
            yield from _followed(follow, testimony.rest.file, lambda fact: fact.position)
        else:
            yield from _followed(follow, sessions[follow.session_id], lambda fact: fact.seq)
            closed = testimony.rest.file_sessions.get(follow.session_id, False)
            if follow.ended != closed:
                yield f"follower {follow.name}: ended is {follow.ended}, the session's closed is {closed}"


def _followed(follow: Follow, log: list[Fact], place: Callable[[Fact], int]) -> Iterator[str]:
    expected = 1
    for item in follow.items:
        if place(item) != expected:
            kind = "a repeat" if place(item) < expected else "a gap"
            yield f"follower {follow.name}: {kind}, {place(item)} where {expected} was next"
        expected = place(item) + 1
        if place(item) > len(log):
            yield f"follower {follow.name} was given {item.row()}, which is not in the log"
        elif not _same(item, log[place(item) - 1]):
            yield f"follower {follow.name} was given {item.row()}; the log has {log[place(item) - 1].row()}"
    if expected <= len(log):
        yield f"follower {follow.name} was given {expected - 1} of {len(log)}"


def _same(item: Fact, fact: Fact) -> bool:
    """A message that was followed by session has no position."""
    return item.agrees(fact) if item.position else item.row()[1:] == fact.row()[1:]


def announced_is_committed(testimony: Testimony) -> Iterator[str]:
    """Whatever was seen on the live or the effects socket is in the log, as it was seen; each effect once."""
    log = testimony.rest.file
    for where, facts in (("live", testimony.announced), ("effects", testimony.emitted)):
        for fact in facts:
            if fact.position > len(log) or not fact.agrees(log[fact.position - 1]):
                stored = log[fact.position - 1].row() if fact.position <= len(log) else "nothing"
                yield f"the {where} socket carried {fact.row()}; the log has {stored}"
        for position, times in Counter(fact.position for fact in facts).items():
            if times > 1:
                yield f"the {where} socket carried position {position} {times} times"


def effects_handled(testimony: Testimony) -> Iterator[str]:
    """Every effect was handled at least once, or is a dead letter; one that always fails is one."""
    everything = {fact.position for fact in testimony.rest.file}
    for group, cursor in testimony.rest.taken.items():
        dead = testimony.rest.dead[group]
        attempts = [handling for handling in testimony.handlings if handling.group == group]
        handled = {handling.position for handling in attempts if handling.handled}
        if cursor != len(everything):
            yield f"group {group} has taken {cursor} of {len(everything)} effects"
        for position in sorted(everything - handled - dead):
            yield f"group {group}: the effect at {position} was never handled and is no dead letter"
        for position in sorted((dead | handled) - everything):
            yield f"group {group}: there is no fact at {position}"
        for position in sorted(dead - {handling.position for handling in attempts}):
            yield f"group {group}: the effect at {position} is a dead letter, but nobody ever tried it"


def effects_in_order(testimony: Testimony) -> Iterator[str]:
    """In the ordered group a session's effects neither overlap nor pass each other.

    A lease that ended before its worker came to begin (its reply was delayed, or the worker stood still)
    keeps nobody else from the session.
    """
    last: dict[int, Handling] = {}
    ordered = [handling for handling in testimony.handlings if handling.group == ORDERED]
    for handling in sorted(ordered, key=lambda handling: handling.began):
        before = last.get(handling.session_id)
        if before is not None and handling.position < before.position:
            yield f"session {handling.session_id}: {handling.position} was begun after {before.position}"
        if (
            before is not None
            and before.ended is not None
            and handling.began < min(before.ended, before.began + before.left)
        ):
            yield f"session {handling.session_id}: {handling.position} and {before.position} overlapped"
        last[handling.session_id] = handling


def seen_on_the_way(testimony: Testimony) -> Iterator[str]:
    """What the processes noticed themselves, and what the campaign noticed about them."""
    yield from testimony.found


SEEN: Final = "nothing was wrong on the way"

CHECKS: Final[Mapping[str, Check]] = {
    "acknowledged writes are in the log once": acknowledged_once,
    "no write is there twice, in part, or though refused": written_once,
    "nothing is there that nobody wrote": nothing_else,
    "each writer's order is kept": in_order,
    "positions and seqs are dense": dense,
    "closed sessions stay closed": closed_for_good,
    "memory equals the file, the chain holds": memory_is_file,
    "keys are kept": keys_kept,
    "followers were given everything once": followed_whole,
    "nothing was announced that was not committed": announced_is_committed,
    "effects were handled, or are dead letters": effects_handled,
    "an ordered group keeps each session's order": effects_in_order,
    SEEN: seen_on_the_way,
}


def _by_tag(facts: list[Fact]) -> tuple[dict[str | None, Fact], Counter[str | None]]:
    return {fact.tag: fact for fact in facts}, Counter(fact.tag for fact in facts)


def _by_session(facts: list[Fact]) -> defaultdict[int, list[Fact]]:
    sessions: defaultdict[int, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.type == MESSAGE_APPENDED:
            sessions[fact.session_id].append(fact)
    return sessions


def _shown(log: Mapping[str | None, Fact], tag: str | None) -> object:
    return log[tag].row() if tag in log else "nothing"
