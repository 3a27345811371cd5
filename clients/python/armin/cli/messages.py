"""`armin append` and `read`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from armin.cli.connection import Where, find_id, find_session
from armin.cli.options import json_option, meta_option, session_argument
from armin.cli.output import ROLE_STYLES, Column, Listing, View, on_terminal, write_json
from armin.cli.records import message_record
from armin.client import Client
from armin.errors import BadRequest, TooLarge
from armin.results import Message
from armin_broker.protocol import CONTENT_BYTES_MAX, ROLES

PAGE_ITEMS: Final = 500  # messages asked for at once

ELIDED: Final = "(too large for a stream; armin read shows it)"

MESSAGES: Final[View[Message]] = View(
    (Column("seq", 6, "right", "dim"), Column("role", 9), Column("content")),
    lambda message: (str(message.seq), message.role, ELIDED if message.elided else message.content),
    message_record,
    lambda message: ROLE_STYLES.get(message.role, ""),
)


@click.command(short_help="Append one message to a session.")
@session_argument
@click.argument("role", type=click.Choice(ROLES))
@click.argument("text")
@meta_option
@click.option("--expect-seq", type=int, metavar="N", help="Append only if it becomes message N.")
@click.option("--key", metavar="KEY", help="Idempotency key: given again, the message is not appended twice.")
@click.option("--exact", is_flag=True, help="Keep the final newline of standard input.")
@json_option
@click.pass_obj
def append(
    where: Where,
    session: str,
    by_name: bool,
    role: str,
    text: str,
    meta: dict[str, Any] | None,
    expect_seq: int | None,
    key: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Append one message to SESSION, an id or a name, and print its seq there.

    When it returns, the message is on disk. TEXT - takes it from standard input, UTF-8, exactly as it
    comes but for one final newline, which echo and editors add.

    \b
      armin append 7 user "hello"
      git diff | armin append 7 tool - --meta '{"tool": "git"}'
    """
    content = _standard_input(exact) if text == "-" else text
    with where.connect() as client:
        session_id = find_id(client, session, by_name)
        done = client.append(session_id, role, content, meta, expect_seq=expect_seq, key=key)
    if as_json:
        record = {"id": done.id, "session_id": session_id, "seq": done.seq, "at": done.at}
        write_json({**record, "created_at": done.created_at})
    elif on_terminal():
        click.echo(f"message {done.seq} of session {session_id}, at position {done.at}")
    else:
        click.echo(done.seq)


def _standard_input(exact: bool) -> str:
    data = sys.stdin.buffer.read(CONTENT_BYTES_MAX + 2)  # one for the newline, one to see that it is more
    if not exact and data.endswith(b"\n"):
        data = data[:-1]
    if len(data) > CONTENT_BYTES_MAX:
        raise TooLarge(
            f"standard input holds more than the {CONTENT_BYTES_MAX} bytes that one message may have",
            field="content",
            limit=CONTENT_BYTES_MAX,
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"standard input is not UTF-8 (byte {error.start}: 0x{data[error.start]:02x}); "
            "convert it, for example with iconv",
            field="content",
        ) from None


@click.command(short_help="Print a session's messages.")
@session_argument
@click.option("--after", type=click.IntRange(min=0), metavar="SEQ", help="Begin behind this message.")
@click.option("--before", type=click.IntRange(min=1), metavar="SEQ", help="End before this message.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="The last N messages.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="At most N; with --before those next to it."
)
@json_option
@click.pass_obj
def read(
    where: Where,
    session: str,
    by_name: bool,
    after: int | None,
    before: int | None,
    last: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print the messages of SESSION, an id or a name: all of them, unless told otherwise.

    In a pipe each message is one line: seq, role and content, with newlines written as \\n.

    \b
      armin read 7 --last 20
      armin read 7 --json | jq -r .content
    """
    if last is not None and (after is not None or before is not None or limit is not None):
        raise click.UsageError("--last stands alone")
    if after is not None and before is not None and limit is not None:
        raise click.UsageError("give two of --after, --before and --limit")
    listing = Listing(MESSAGES, as_json=as_json)
    with where.connect() as client:
        found = find_session(client, session, by_name)
        start, end = _bounds(found.seq, after, before, last, limit)
        for page in pages(client, found.id, start, end):
            listing.show(page)


def _bounds(
    seq: int, after: int | None, before: int | None, last: int | None, limit: int | None
) -> tuple[int, int]:
    """What to read of a session that ends at `seq`: behind which message, and up to which."""
    end = seq if before is None else min(seq, before - 1)
    if last is not None:
        return max(0, seq - last), seq
    if limit is None:
        return after or 0, end
    if before is not None:
        return max(0, end - limit), end
    return after or 0, min(end, (after or 0) + limit)


def pages(client: Client, session_id: int, start: int, end: int) -> Iterator[Sequence[Message]]:
    """The messages behind seq `start` up to `end`; where there is no seq `start`, the engine refuses."""
    cursor, more = start, True
    while more:
        size = min(PAGE_ITEMS, max(1, end - cursor))
        page = client.read(session_id, after=cursor, limit=size)
        found = [message for message in page.messages if message.seq <= end]
        yield found
        cursor = found[-1].seq if found else end
        more = cursor < end and page.more
