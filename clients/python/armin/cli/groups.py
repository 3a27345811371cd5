"""`armin groups`, `dead-letters`, `requeue`, `discard` and `drop-group`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from armin.cli.connection import Where
from armin.cli.figures import group_state
from armin.cli.options import json_option
from armin.cli.output import Column, Listing, View, moment, on_terminal, write_json
from armin.cli.records import dead_letter_record, group_record
from armin.client import Client
from armin.errors import GroupNotFound
from armin.results import DeadLetter, Group

PAGE_ITEMS: Final = 500  # dead letters asked for at once


GROUPS: Final[View[Group]] = View(
    (
        Column("behind", 8, "right"),
        Column("waiting", 8, "right"),
        Column("leased", 6, "right"),
        Column("dead", 6, "right"),
        Column("pollers", 7, "right"),
        Column("state", 6),
        Column("group"),
    ),
    lambda group: (
        str(group.behind),
        str(group.waiting),
        str(group.leased),
        str(group.dead),
        str(group.pollers),
        group_state(group),
        group.group,
    ),
    group_record,
    lambda group: "bold red" if group.halted else "green" if group.leased else "dim",
)

DEAD_LETTERS: Final[View[DeadLetter]] = View(
    (
        Column("at", 7, "right", "dim"),
        Column("died", 19, style="dim"),
        Column("attempts", 8, "right"),
        Column("session", 7, "right"),
        Column("type", 16),
        Column("reason"),
    ),
    lambda letter: (
        str(letter.position),
        moment(letter.died_at),
        str(letter.attempts),
        str(letter.event.session_id),
        letter.event.type,
        letter.reason or "",
    ),
    dead_letter_record,
)


@click.command(short_help="List worker groups and how they stand.")
@click.argument("group", required=False)
@json_option
@click.pass_obj
def groups(where: Where, group: str | None, as_json: bool) -> None:
    """List worker groups, or this GROUP, and how they stand.

    behind: facts not looked at yet. waiting: effects without a worker, or in a pause after a failure.
    leased: effects that are being handled. dead: effects given up. pollers: workers with nothing to do.

    \b
      armin groups
      armin groups mail --json
    """
    with where.connect() as client:
        Listing(GROUPS, as_json=as_json).show(client.groups(group))


@click.command("dead-letters", short_help="List effects that a group has given up.")
@click.argument("group")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N.")
@json_option
@click.pass_obj
def dead_letters(where: Where, group: str, limit: int | None, as_json: bool) -> None:
    """List the effects that GROUP has given up, by position, with the reason that the last worker gave.

    \b
      armin dead-letters mail
      armin dead-letters mail --json | jq .event
    """
    listing = Listing(DEAD_LETTERS, as_json=as_json)
    with where.connect() as client:
        for page in _pages(client, group, limit):
            listing.show(page)


def _pages(client: Client, group: str, limit: int | None) -> Iterator[tuple[DeadLetter, ...]]:
    after, more, left = 0, True, float("inf") if limit is None else limit
    while more and left > 0:
        page = client.dead_letters(group, after=after, limit=int(min(PAGE_ITEMS, left)))
        yield page.dead_letters
        left -= len(page.dead_letters)
        more = page.more and bool(page.dead_letters)
        after = page.dead_letters[-1].position if page.dead_letters else after


_positions = click.argument("positions", metavar="[POSITION]...", type=click.IntRange(min=1), nargs=-1)


@click.command(short_help="Try a group's dead letters again.")
@click.argument("group")
@_positions
@json_option
@click.pass_obj
def requeue(where: Where, group: str, positions: tuple[int, ...], as_json: bool) -> None:
    """Try dead letters of GROUP again: those at these POSITIONs, or all. Their attempts count from 1 again.

    Prints how many there were. A group that one of them had halted goes on.

    \b
      armin requeue mail
      armin requeue mail 17 23
    """
    with where.connect() as client:
        count = client.requeue(group, positions or None)
    _say("requeued", count, as_json)


@click.command(short_help="Give a group's dead letters up for good.")
@click.argument("group")
@_positions
@click.option("--all", "everything", is_flag=True, help="All dead letters of the group.")
@json_option
@click.pass_obj
def discard(where: Where, group: str, positions: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Give dead letters of GROUP up for good: those at these POSITIONs.

    Prints how many there were. A group that one of them had halted goes on without it.

    \b
      armin discard mail 17
    """
    if everything == bool(positions):
        raise click.UsageError("give either positions or --all")
    with where.connect() as client:
        count = client.discard(group, positions or None)
    _say("discarded", count, as_json)


def _say(what: str, count: int, as_json: bool) -> None:
    if as_json:
        write_json({what: count})
    elif on_terminal():
        click.echo(f"{what} {count:,} dead letter{'' if count == 1 else 's'}")
    else:
        click.echo(count)


@click.command("drop-group", short_help="Remove a worker group and all that it knows.")
@click.argument("group")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop_group(where: Where, group: str, yes: bool) -> None:
    """Remove GROUP: its cursor, its dead letters, and what its workers hold. On a terminal, asks first.

    The log itself stays as it is; a new group of this name begins anew.

    \b
      armin drop-group mail --yes
    """
    with where.connect() as client:
        if not yes and on_terminal():
            [found] = client.groups(group)
            left = found.behind + found.waiting + found.leased + found.dead
            click.confirm(f"remove {group}, with {left:,} effects not handled?", abort=True)
        if not client.drop_group(group):
            raise GroupNotFound(f"no worker group has the name {group}")
    if on_terminal():
        click.echo(f"{group} is gone")
