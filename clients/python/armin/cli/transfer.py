"""`armin import` and `export`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import click

from armin.cli.connection import Where, find_id
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import note, on_terminal, write_json
from armin.errors import BadRequest, NoReply, ShuttingDown, StorageFailed
from armin.importers import (
    EXPORT_FORMATS,
    FORMATS,
    ExportProgress,
    ExportResult,
    ImportProgress,
    ImportResult,
    Outcome,
    Problem,
    UnknownFormat,
    export,
    import_file,
)

LANES: Final = 8  # conversations on their way at once: their waits for the disk overlap
PROBLEMS_SHOWN: Final = 20  # lines on standard error; --json has up to 1,000


@click.command("import", short_help="Import conversations from a file.")
@click.argument("file")
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="Do not guess the format.")
@json_option
@click.pass_obj
def import_(where: Where, file: str, format_name: str | None, as_json: bool) -> int:
    """Import conversations from FILE, or from standard input where it is -.

    OpenAI chat JSON Lines, ShareGPT JSON, the chitchat-dataset and Armin's own export are recognised.
    Each conversation is one session; importing again adds only what is missing. Exit code 8: the file is
    cut off, and what stands whole is in; 9: some conversations were left out.

    \b
      armin import conversations.jsonl
      zcat export.jsonl.gz | armin import -
    """
    begun = time.monotonic()
    with ExitStack() as stack:
        client, *lanes = [stack.enter_context(where.connect()) for _ in range(LANES)]
        update = stack.enter_context(_bar("importing", on=sys.stderr.isatty()))

        reached = ImportProgress(0, None, 0, 0)

        def progress(state: ImportProgress) -> None:
            nonlocal reached
            reached = state
            update(state.bytes_read, state.bytes_total, state.messages)

        source: Any = sys.stdin.buffer if file == "-" else Path(file)
        try:
            result = import_file(client, source, format=format_name, lanes=lanes, progress=progress)
        except UnknownFormat as error:
            raise BadRequest(f"{file}: {error}; --format names one", field="format") from None
        except (NoReply, ShuttingDown, StorageFailed) as error:
            error.message += _how_to_go_on(reached)
            raise
    seconds = time.monotonic() - begun
    if as_json:
        write_json(_import_record(result, seconds))
    else:
        click.echo(_import_summary(result, seconds))
        _list_problems(result)
    return _import_exit(result.outcome)


def _how_to_go_on(reached: ImportProgress) -> str:
    """What follows the error of an engine that failed."""
    return (
        f"; {reached.conversations:,} conversations, {reached.messages:,} messages are in and stay:"
        " run the same import again, it adds only the rest"
    )


def _import_exit(outcome: Outcome) -> Exit:
    if outcome is Outcome.COMPLETE:
        return Exit.OK
    return Exit.CUT_OFF if outcome is Outcome.CUT_OFF else Exit.INCOMPLETE


def _import_summary(result: ImportResult, seconds: float) -> str:
    rate = (result.messages_added + result.messages_present) / max(seconds, 1e-9)
    left_out = sum(result.problem_counts.values())
    parts = [
        f"{result.conversations:,} conversations",
        f"{result.messages_added:,} messages added",
        f"{result.messages_present:,} were there",
        *([f"{left_out:,} problems"] if left_out else []),
    ]
    return f"{', '.join(parts)}; {seconds:.1f} s, {rate:,.0f} messages/s"


def _list_problems(result: ImportResult) -> None:
    for problem in result.problems[:PROBLEMS_SHOWN]:
        note(f"armin: {problem}")
    more = sum(result.problem_counts.values()) - PROBLEMS_SHOWN
    if more > 0:
        note(f"armin: and {more:,} more (armin import --json lists them)")


def _import_record(result: ImportResult, seconds: float) -> dict[str, Any]:
    names = ("format", "conversations", "created", "continued", "present", "messages_added")
    return {
        "outcome": result.outcome.value,
        **{name: getattr(result, name) for name in (*names, "messages_present", "bytes_read")},
        "seconds": round(seconds, 3),
        "problem_counts": {kind.value: count for kind, count in result.problem_counts.items()},
        "problems": [_problem_record(problem) for problem in result.problems],
    }


def _problem_record(problem: Problem) -> dict[str, Any]:
    names = ("message", "index", "line", "offset", "session", "session_id", "seq")
    given = {name: getattr(problem, name) for name in names if getattr(problem, name) is not None}
    return {"kind": problem.kind.value, **given}


@contextmanager
def _bar(what: str, *, on: bool) -> Iterator[Callable[[int, int | None, int], None]]:
    """How to tell a progress bar what is done, what there is in all, and the messages so far."""
    if not on:
        yield lambda done, total, messages: None
        return
    from armin.cli import terminal  # noqa: PLC0415 - rich costs time that pipes need not pay

    with terminal.bar(what, "messages") as bar:
        [task] = bar.task_ids
        yield lambda done, total, messages: bar.update(task, completed=done, total=total, counted=messages)


@click.command("export", short_help="Write conversations as JSON Lines.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(EXPORT_FORMATS),
    default=EXPORT_FORMATS[0],
    show_default=True,
    help="armin keeps everything; openai is chat JSON Lines.",
)
@click.option("--session", "chosen", metavar="SESSION", multiple=True, help="Only this one; may be repeated.")
@click.option("--name", "by_name", is_flag=True, help="SESSION is a name, though it looks like a number.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.pass_obj
def export_(
    where: Where, format_name: str, chosen: tuple[str, ...], by_name: bool, output: Path | None
) -> None:
    """Write conversations to standard output, one JSON object a line: all, unless told otherwise.

    With -o the file is replaced once all is written.

    \b
      armin export -o backup.jsonl
      armin export --format openai --session 7 | jq .messages
    """
    if output == Path("-"):
        output = None
    begun = time.monotonic()
    shows = sys.stderr.isatty() and (output is not None or not on_terminal())
    with where.connect() as client:
        ids = [find_id(client, session, by_name) for session in chosen] or None
        total = client.stats()["sessions"] if ids is None else len(ids)
        with _destination(output) as out, _bar("exporting", on=shows) as update:

            def progress(state: ExportProgress) -> None:
                update(state.sessions, total, state.messages)

            result = export(client, out, format=format_name, session_ids=ids, progress=progress)
    if output is not None:
        click.echo(_export_summary(result, time.monotonic() - begun))
    elif shows:
        note(_export_summary(result, time.monotonic() - begun))


@contextmanager
def _destination(output: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that takes the name of `output` only when it is whole."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if output.exists() and not output.is_file():  # a device or a pipe is written as it is
        with output.open("wb") as out:
            yield out
        return
    partial = output.with_name(output.name + ".partial")
    try:
        with partial.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(output)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _export_summary(result: ExportResult, seconds: float) -> str:
    rate = result.messages / max(seconds, 1e-9)
    return (
        f"{result.sessions:,} sessions, {result.messages:,} messages; {seconds:.1f} s, {rate:,.0f} messages/s"
    )
