"""`armin worker`: a command for each effect of a group."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Literal

import click

from armin.cli import shown
from armin.cli.children import CannotStart, Command, environment
from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.output import note
from armin.effect import BACKOFF_MS, LEASE_MS, MAX_ATTEMPTS, Counters, Effect
from armin.worker import Worker
from armin_broker.protocol import MESSAGE_APPENDED, SESSION_CLOSED, SESSION_CREATED

TYPES: Final = (SESSION_CREATED, MESSAGE_APPENDED, SESSION_CLOSED)
CONCURRENCY_MAX: Final = 1000  # commands at a time; each has a thread, a process and a pipe


@click.command(
    short_help="Run a command for each effect of a group.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--group", required=True, metavar="NAME", help="The worker group; created if need be.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, CONCURRENCY_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Run N commands at a time.",
)
@click.option(
    "--start",
    type=click.Choice(("begin", "now")),
    default="begin",
    show_default=True,
    help="Where a new group begins in the log.",
)
@click.option("--type", "types", multiple=True, type=click.Choice(TYPES), help="Only these; may be repeated.")
@click.option("--ordered", is_flag=True, help="One session's effects one at a time, in order.")
@click.option(
    "--max-attempts",
    type=click.IntRange(1, 1000),
    default=MAX_ATTEMPTS,
    show_default=True,
    metavar="N",
    help="After N failures an effect is a dead letter.",
)
@click.option(
    "--backoff-ms",
    type=click.IntRange(min=0),
    default=BACKOFF_MS,
    show_default=True,
    metavar="MS",
    help="Pause after the first failure; each further one doubles it.",
)
@click.option(
    "--on-dead",
    type=click.Choice(("skip", "halt")),
    default="skip",
    show_default=True,
    help="What a dead letter does to the group.",
)
@click.option(
    "--lease-ms",
    type=click.IntRange(min=10),
    default=LEASE_MS,
    show_default=True,
    metavar="MS",
    help="An effect of a worker that is silent for so long goes to another one.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Kill a command that takes longer [default: never].",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def worker(
    where: Where,
    group: str,
    concurrency: int,
    start: Literal["begin", "now"],
    types: tuple[str, ...],
    ordered: bool,
    max_attempts: int,
    backoff_ms: int,
    on_dead: Literal["skip", "halt"],
    lease_ms: int,
    timeout_s: float | None,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND for each effect of a group, which is shared with its other workers.

    The event is one JSON object on its standard input; ARMIN_POSITION, ARMIN_ATTEMPT, ARMIN_SESSION_ID and
    ARMIN_EVENT_TYPE are in its environment. Exit code 0: handled. Any other: it comes again after a pause,
    and at last is a dead letter; the reason is the exit code and the last line of standard error. An
    effect may come twice, after a crash for example: its position tells.

    SIGTERM and Ctrl-C finish what runs and take no more; the second one kills it. While a command runs its
    effect stays with it, however long that is. A COMMAND that is not found ends the worker (127).

    \b
      armin worker --group mail --type message_appended -- ./notify
    """
    handler = Command(command, environment(os.environ, where.target()), timeout_s)
    try:
        handler.check()
    except CannotStart as error:
        return _not_started(error)
    _log_failures()
    with where.connect() as client:

        def handle(effect: Effect) -> None:
            try:
                handler(effect)
            except CannotStart:
                running.stop()
                raise

        running = client.worker(
            group,
            handle,
            concurrency=concurrency,
            start=start,
            types=types or None,
            ordered=ordered,
            max_attempts=max_attempts,
            backoff_ms=backoff_ms,
            on_dead=on_dead,
            lease_ms=lease_ms,
        )
        with _signals(running, handler) as received:
            running.run()
    _sum_up(running.counters)
    if handler.broken is not None:
        return _not_started(handler.broken)
    return Exit.INTERRUPTED if received[:1] == [signal.SIGINT] else Exit.OK


def _not_started(error: CannotStart) -> int:
    click.echo(f"armin: {shown.line(str(error))}", err=True)
    return Exit.NOT_STARTED


@contextmanager
def _signals(running: Worker, handler: Command) -> Iterator[list[int]]:
    """The first signal stops the worker, the second one kills its commands, the third one itself."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            running.stop()
            if sys.stderr.isatty():
                os.write(2, b"armin: finishing what runs; once more kills it\n")
        elif len(received) == 2:
            handler.kill()
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    for number, action in before.items():
        if action is not signal.SIG_IGN:  # as for a script's background job, or nohup
            signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, action in before.items():
            signal.signal(number, action)


class _OneLine(logging.Formatter):
    """What a command said is not to steer the terminal that shows it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without a traceback of ours."""
        return f"armin: {shown.line(record.getMessage())}"


def _log_failures() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("armin.worker")
    logger.addHandler(handler)
    logger.propagate = False


def _sum_up(counters: Counters) -> None:
    if sys.stderr.isatty():
        note(
            f"handled {counters.handled:,}, failed {counters.failed:,} ({counters.dead:,} for good), "
            f"lost {counters.lost:,}, redelivered {counters.redelivered:,}"
        )
