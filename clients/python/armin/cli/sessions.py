"""`armin new`, `close` and `sessions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from armin.cli.connection import Where, find_id
from armin.cli.options import json_option, meta_option, session_argument
from armin.cli.output import Column, Listing, View, moment, on_terminal, write_json
from armin.cli.records import session_record
from armin.client import Client
from armin.results import Session
from armin_broker.protocol import ID_MAX, PAGE_ITEMS_MAX

PAGE_ITEMS: Final = 1000  # sessions asked for at once


@click.command(short_help="Create a session and print its id.")
@click.option("--name", help="Its public name. If a session has it already, that one is given, unchanged.")
@click.option("--key", metavar="KEY", help="Idempotency key: given again, no second session is created.")
@meta_option
@json_option
@click.pass_obj
def new(where: Where, name: str | None, key: str | None, meta: dict[str, Any] | None, as_json: bool) -> None:
    """Create a session and print its id.

    \b
      id=$(armin new --name ticket-4711)
    """
    with where.connect() as client:
        session = client.create_session(name, meta, key=key)
    if as_json:
        record = session_record(session)
        write_json({**record, "duplicate": True} if session.duplicate else record)
    elif on_terminal():
        click.echo(f"session {session.id}{' (it was there)' if session.duplicate else ''}")
    else:
        click.echo(session.id)


@click.command(short_help="Close a session for good.")
@session_argument
@json_option
@click.pass_obj
def close(where: Where, session: str, by_name: bool, as_json: bool) -> None:
    """Close SESSION for good: it takes no more messages, ever.

    SESSION is an id or a name. Closing it again is fine. Prints only on a terminal.

    \b
      armin close 7
    """
    with where.connect() as client:
        session_id = find_id(client, session, by_name)
        closed = client.close_session(session_id)
    if as_json:
        record = {"session_id": session_id, "at": closed.at}
        write_json({**record, "duplicate": True} if closed.duplicate else record)
    elif on_terminal():
        click.echo(f"session {session_id} {'was closed before' if closed.duplicate else 'is closed'}")


SESSIONS: Final[View[Session]] = View(
    (
        Column("id", 6, "right", "bold"),
        Column("created", 19, style="dim"),
        Column("messages", 8, "right"),
        Column("state", 6),
        Column("name"),
    ),
    lambda session: (
        str(session.id),
        moment(session.created_at),
        str(session.seq),
        "closed" if session.closed else "open",
        session.name or "",
    ),
    session_record,
    lambda session: "dim" if session.closed else "green",
)


@click.command(short_help="List sessions, newest first.")
@click.option("--open/--closed", "is_open", default=None, help="Only those that are open, or closed.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N.")
@click.option("--oldest", is_flag=True, help="Oldest first.")
@json_option
@click.pass_obj
def sessions(where: Where, is_open: bool | None, limit: int | None, oldest: bool, as_json: bool) -> None:
    """List sessions, newest first.

    \b
      armin sessions --open --limit 20
    """
    listing = Listing(SESSIONS, as_json=as_json)
    closed = None if is_open is None else not is_open
    with where.connect() as client:
        for page in _pages(client, closed, limit, oldest):
            listing.show(page)


def _pages(client: Client, closed: bool | None, limit: int | None, oldest: bool) -> Iterator[list[Session]]:
    cursor, more = (0 if oldest else ID_MAX), True
    left = float("inf") if limit is None else limit
    while more and left > 0:
        size = int(min(PAGE_ITEMS, PAGE_ITEMS_MAX, left))
        if oldest:
            page = client.sessions(after=cursor, limit=size, closed=closed)
        else:
            page = client.sessions(before=cursor, limit=size, closed=closed)
        found = list(page.sessions if oldest else reversed(page.sessions))
        yield found
        more, left = page.more and bool(found), left - len(found)
        cursor = found[-1].id if found else cursor
