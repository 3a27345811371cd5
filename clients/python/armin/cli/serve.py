"""`armin serve`: the daemon, in this process."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.shown import line
from armin.target import DIR_VARIABLE
from armin_broker import daemon
from armin_broker.config import Config

MIB = 1 << 20
PROGRESS_FACTS = 100_000  # recovery says how far it is after each of these


@click.command(short_help="Run the engine on a directory.")
@click.argument("directory", required=False, type=click.Path(file_okay=False))
@click.option(
    "--tcp", metavar="HOST:PORT", help="Also serve on TCP: commands, live and effects on PORT, +1, +2."
)
@click.option(
    "--ipc-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the sockets, where DIRECTORY's path is too long for them.",
)
@click.option(
    "--memory", metavar="MIB", type=click.IntRange(min=1), help="Memory budget of all history, in MiB."
)
@click.option("--verbose", is_flag=True, help="Log more.")
@click.pass_obj
def serve(
    where: Where,
    directory: str | None,
    tcp: str | None,
    ipc_dir: Path | None,
    memory: int | None,
    verbose: bool,
) -> int:
    """Run the engine on DIRECTORY until SIGTERM or Ctrl-C.

    DIRECTORY, or else --dir or ARMIN_DIR, is made if absent; it keeps armin.db and the sockets, for its
    owner alone. Exit codes: 10 another engine owns it, 11 not an Armin database, 12 written by a newer
    Armin, 13 corrupt, 14 does not fit the memory budget, 15 cannot be opened, 16 a socket cannot be bound.

    \b
      armin serve ./armin-data
      armin serve ./armin-data --tcp 127.0.0.1:7450
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    host, port = _host_and_port(tcp)
    config = Config(
        _directory(where, directory),
        ipc_directory=ipc_dir,
        tcp_host=host,
        tcp_port=port,
        memory_budget=None if memory is None else memory * MIB,
    )
    try:
        daemon.serve(config, ready=_say_ready, progress=_Progress())
    except tuple(daemon.EXIT_CODES) as error:
        click.echo(f"armin: {line(str(error))}", err=True)
        return daemon.EXIT_CODES[type(error)]
    return Exit.OK


def _directory(where: Where, given: str | None) -> Path:
    if given == "":
        raise click.UsageError("DIRECTORY is empty; is a variable not set?")
    directory = given or where.directory or os.environ.get(DIR_VARIABLE)
    if not directory:
        raise click.UsageError(f"name a directory: armin serve DIRECTORY, or set {DIR_VARIABLE}")
    return Path(directory)


def _host_and_port(tcp: str | None) -> tuple[str | None, int]:
    if tcp is None:
        return None, 0
    host, _, port = tcp.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65533:
        raise click.BadParameter(f"{tcp!r} is not HOST:PORT with a port up to 65533", param_hint="--tcp")
    return host, int(port)


def _say_ready(endpoints: dict[str, dict[str, Any]]) -> None:
    places = [f"ipc {Path(endpoints['ipc']['commands']).parent}"]
    if "tcp" in endpoints:
        places.append(f"tcp ports {', '.join(str(port) for port in endpoints['tcp'].values())}")
    click.echo(f"armin: serving {' and '.join(places)}")
    sys.stdout.flush()


class _Progress:
    """Says on standard error how far recovery is, on large files."""

    def __init__(self) -> None:
        self._next = PROGRESS_FACTS

    def __call__(self, done: int, total: int) -> None:
        if done >= self._next:
            self._next = done + PROGRESS_FACTS
            click.echo(f"armin: recovering, {done} of {total} facts ({100 * done // total} %)", err=True)
