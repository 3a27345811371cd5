"""`armin follow`, `log` and `effects`: what goes on, for as long as it goes on."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import FrameType
from typing import Any, Final, TypeVar

import click

from armin.cli.connection import Where, find_session
from armin.cli.exits import Exit
from armin.cli.messages import ELIDED, MESSAGES
from armin.cli.options import json_option
from armin.cli.output import ROLE_STYLES, Column, Listing, View, moment, note
from armin.cli.records import event_record
from armin.client import Client
from armin.feeds import epoch_to_keep
from armin.results import Event, FollowState
from armin_broker.protocol import EVENT_TYPES, SESSION_CLOSED, SESSION_CREATED

T = TypeVar("T")

PAGE_ITEMS: Final = 1000  # facts asked for at once

_WHAT: Final = {SESSION_CREATED: "created", SESSION_CLOSED: "closed"}


def _cells(event: Event) -> tuple[str, ...]:
    message = event.message
    what = _WHAT.get(event.type, event.type) if message is None else message.role
    text = (event.name or "") if message is None else ELIDED if message.elided else message.content
    return str(event.position), moment(event.created_at), f"{event.session_id}", what, text


def _style(event: Event) -> str:
    return "bold" if event.message is None else ROLE_STYLES.get(event.message.role, "")


EVENTS: Final[View[Event]] = View(
    (
        Column("at", 7, "right", "dim"),
        Column("time", 19, style="dim"),
        Column("session", 7, "right"),
        Column("what", 9),
        Column("content or name"),
    ),
    _cells,
    event_record,
    _style,
    one_line=True,
)


_STATES: Final = {
    FollowState.CATCHING_UP: "catching up",
    FollowState.LIVE: "live",
    FollowState.ENGINE_GONE: "engine gone; waiting for it to come back",
}

F = TypeVar("F", bound=Callable[..., Any])


def _type_option(command: F) -> F:
    return click.option(
        "--type",
        "types",
        type=click.Choice(EVENT_TYPES),
        multiple=True,
        help="Only facts of this type; may be given more than once.",
    )(command)


_epoch_option = click.option(
    "--epoch",
    metavar="EPOCH",
    help="The one of armin status --json before --after was read; another one is refused.",
)


def _states_option(command: F) -> F:
    return click.option(
        "--states/--no-states",
        default=None,
        help="Say on standard error how it stands: catching up, live, engine gone [default: on a terminal].",
    )(command)


def _teller(states: bool | None) -> Callable[[FollowState], None] | None:
    """What tells the person at the terminal, or whoever asked for it, how the following stands."""
    wanted = sys.stderr.isatty() if states is None else states
    return (lambda state: note(f"armin: {_STATES[state]}")) if wanted else None


def _run_until_told() -> None:
    """Set this process up to run for long: SIGTERM is its normal end, and so is a reader that went away."""
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_watch_pipe, args=(sys.stdout.fileno(),), daemon=True).start()


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise SystemExit(Exit.OK)


def _watch_pipe(descriptor: int) -> None:
    # `armin follow 7 | grep -m1 done`: without this, it would stay until the next message comes.
    poll = select.poll()
    poll.register(descriptor, 0)  # errors only: the reader has closed its end
    [(_, events)] = poll.poll()
    if events & select.POLLERR:
        os._exit(Exit.PIPE_CLOSED)


def _print(view: View[T], items: Iterable[T], as_json: bool) -> None:
    listing = Listing(view, as_json=as_json)
    for item in items:
        listing.show((item,))


@click.command(short_help="Print messages as they come, history first.")
@click.argument("session", required=False)
@click.option("--name", "by_name", is_flag=True, help="SESSION is a name, though it looks like a number.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="N",
    help="Begin behind this seq; without SESSION, position.",
)
@click.option("--last", type=click.IntRange(min=0), metavar="N", help="Begin with the last N.")
@click.option("--from-start", is_flag=True, help="Without SESSION: begin with the first fact.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N.")
@_epoch_option
@_type_option
@_states_option
@json_option
@click.pass_obj
def follow(
    where: Where,
    session: str | None,
    by_name: bool,
    after: int | None,
    last: int | None,
    from_start: bool,
    limit: int | None,
    epoch: str | None,
    types: tuple[str, ...],
    states: bool | None,
    as_json: bool,
) -> None:
    """Print the messages of SESSION, an id or a name: history first, then as they come, each once.

    Ends when the session is closed. Without SESSION: every fact of all sessions from now on. An engine
    that restarts is waited for; nothing is missed and nothing comes twice. SIGTERM ends it with exit code 0.

    \b
      armin follow 7 --last 10
      armin follow --type session_created --json
    """
    if sum((after is not None, last is not None, from_start)) > 1:
        raise click.UsageError("give one of --after, --last and --from-start")
    if types and session is not None:
        raise click.UsageError("--type is for all sessions; one SESSION gives its messages")
    _run_until_told()
    on_state = _teller(states)
    with where.connect() as client:
        if session is None:
            start = _first_position(client, after, last, from_start)
            _print(EVENTS, islice(_follow_all(client, start, epoch, types, on_state), limit), as_json)
        else:
            found = find_session(client, session, by_name)
            begin = (after or 0) if last is None else max(0, found.seq - last)
            messages = client.follow(found.id, begin, epoch=epoch, on_state=on_state)
            _print(MESSAGES, islice(messages, limit), as_json)


def _follow_all(
    client: Client,
    start: int,
    epoch: str | None,
    types: tuple[str, ...],
    on_state: Callable[[FollowState], None] | None,
) -> Iterator[Event]:
    return client.follow_all(start, epoch=epoch, types=types or None, on_state=on_state)


def _first_position(client: Client, after: int | None, last: int | None, from_start: bool) -> int:
    if from_start:
        return 0
    return after if after is not None else max(0, client.ping() - (last or 0))


@click.command(short_help="Print every fact in commit order.")
@click.option("--after", type=click.IntRange(min=0), metavar="POSITION", help="Begin behind this position.")
@click.option("--last", type=click.IntRange(min=0), metavar="N", help="Begin with the last N facts.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N facts.")
@_epoch_option
@_type_option
@click.option("-f", "--follow", "live", is_flag=True, help="Go on with what comes.")
@_states_option
@json_option
@click.pass_obj
def log(
    where: Where,
    after: int | None,
    last: int | None,
    limit: int | None,
    epoch: str | None,
    types: tuple[str, ...],
    live: bool,
    states: bool | None,
    as_json: bool,
) -> None:
    """Print every committed fact of all sessions in commit order: creations, messages, closures.

    --last counts facts of all types, --limit those that are printed.

    \b
      armin log --last 20 --follow
      armin log --type session_closed
    """
    if after is not None and last is not None:
        raise click.UsageError("give either --after or --last")
    with where.connect() as client:
        position = client.ping()
        start = (after or 0) if last is None else max(0, position - last)
        if live:
            _run_until_told()
            events = _follow_all(client, start, epoch, types, _teller(states))
            _print(EVENTS, islice(events, limit), as_json)
        else:
            end = position if limit is None or types else min(position, start + limit)
            left = limit
            listing = Listing(EVENTS, as_json=as_json)
            for page in _pages(client, start, end, epoch, types):
                listing.show(page[:left])
                left = None if left is None else left - len(page)
                if left is not None and left <= 0:
                    break


def _pages(
    client: Client, start: int, end: int, epoch: str | None, types: tuple[str, ...]
) -> Iterator[tuple[Event, ...]]:
    """The facts of these types, or all, behind `start` up to `end`. A later `start` is refused."""
    cursor, more = start, True
    epoch = epoch or epoch_to_keep(client.hello())  # all pages are of one and the same history
    while more:
        page = client.log(after=cursor, limit=min(PAGE_ITEMS, max(1, end - cursor)), epoch=epoch)
        wanted = (event for event in page.events if not types or event.type in types)
        yield tuple(event for event in wanted if event.position <= end)
        cursor = page.events[-1].position if page.events else end
        more = cursor < end and page.more


@click.command(short_help="Take side effects, shared with other takers.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N.")
@json_option
@click.pass_obj
def effects(where: Where, limit: int | None, as_json: bool) -> None:
    """Take side effects, one for each committed fact, and print them.

    Everybody who runs this shares them: each goes to one taker, at most once. What was handed to a taker
    that ends is gone, and so is what the engine could not keep while nobody took any. To see everything,
    use armin follow. SIGTERM ends it with exit code 0.

    \b
      armin effects --json | while read -r effect; do ./notify "$effect"; done
    """
    _run_until_told()
    with where.connect() as client:
        _print(EVENTS, islice(client.effects(), limit), as_json)
