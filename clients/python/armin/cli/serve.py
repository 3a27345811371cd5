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
from armin_broker import daemon, logs
from armin_broker.config import Config
from armin_broker.protocol import CONNECTIONS_MAX

logger = logging.getLogger(__name__)

MIB = 1 << 20
PROGRESS_FACTS = 100_000  # recovery says how far it is after each of these


@click.command(short_help="Run the engine on a directory.")
@click.argument("directory", required=False, type=click.Path(file_okay=False))
@click.option(
    "--tcp", metavar="HOST:PORT", help="Also serve on TCP: commands, live and effects on PORT, +1, +2."
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Serve even where strangers can come in: by TCP without keys, or through an open directory.",
)
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(1, CONNECTIONS_MAX),
    default=CONNECTIONS_MAX,
    show_default=True,
    help="Connections by ipc, and as many by TCP, at most; fewer where descriptors are short.",
)
@click.option(
    "--ipc-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the sockets, where DIRECTORY's path is too long for them.",
)
@click.option(
    "--memory", metavar="MIB", type=click.IntRange(min=1), help="Memory budget of all history, in MiB."
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Show figures for Prometheus on http://HOST:PORT/metrics; needs the extra armin[metrics].",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    default="info",
    show_default=True,
    help="Log what is at least so grave.",
)
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
@click.pass_obj
def serve(
    where: Where,
    directory: str | None,
    tcp: str | None,
    insecure: bool,
    connections: int,
    ipc_dir: Path | None,
    memory: int | None,
    metrics: str | None,
    log_level: str,
    log_json: bool,
) -> int:
    """Run the engine on DIRECTORY until SIGTERM or Ctrl-C.

    DIRECTORY, or else --dir or ARMIN_DIR, is made if absent; it keeps armin.db and the sockets, for its
    owner alone. On TCP, holders of keys alone come in as soon as armin keys has made one; without keys
    only this machine may reach it. Exit codes: 10 another engine owns it, 11 not an Armin database, 12
    written by a newer Armin, 13 corrupt, 14 does not fit the memory budget, 15 cannot be opened, 16 a
    socket cannot be bound, 19 its keys cannot be used, 22 strangers could come in by TCP, 23 the directory
    is open to others, 24 the metrics endpoint cannot be bound, or its extra is missing.

    \b
      armin serve ./armin-data
      armin serve ./armin-data --tcp 127.0.0.1:7450
      armin --dir ./armin-data keys new alice --role writer
      armin serve ./armin-data --tcp 0.0.0.0:7450
      armin serve ./armin-data --metrics 127.0.0.1:9450 --log-json
    """
    logs.configure(log_level, as_json=log_json)
    host, port = _host_and_port(tcp, "--tcp", 65533)
    metrics_host, metrics_port = _host_and_port(metrics, "--metrics", 65535)
    config = Config(
        _directory(where, directory),
        ipc_directory=ipc_dir,
        tcp_host=host,
        tcp_port=port,
        insecure=insecure,
        connections_max=connections,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        memory_budget=None if memory is None else memory * MIB,
    )
    try:
        daemon.serve(config, ready=_say_ready, progress=_Progress(log_json))
    except tuple(daemon.EXIT_CODES) as error:
        code = daemon.EXIT_CODES[type(error)]
        _say(str(error), logging.ERROR, log_json, exit_code=code)
        return code
    return Exit.OK


def _directory(where: Where, given: str | None) -> Path:
    if given == "":
        raise click.UsageError("DIRECTORY is empty; is a variable not set?")
    directory = given or where.directory or os.environ.get(DIR_VARIABLE)
    if not directory:
        raise click.UsageError(f"name a directory: armin serve DIRECTORY, or set {DIR_VARIABLE}")
    return Path(directory)


def _host_and_port(given: str | None, option: str, port_max: int) -> tuple[str | None, int]:
    if given is None:
        return None, 0
    host, _, port = given.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 <= int(port) <= port_max:
        message = f"{given!r} is not HOST:PORT with a port up to {port_max}"
        raise click.BadParameter(message, param_hint=option)
    return host, int(port)


def _say(message: str, level: int, log_json: bool, **values: Any) -> None:
    """Something for whoever has started it: a plain line, or an event of the log where that is JSON."""
    if log_json:
        logger.log(level, "%s", message, extra=logs.fields(**values))
    else:
        click.echo(f"armin: {line(message)}", err=True)


def _say_ready(endpoints: dict[str, dict[str, Any]]) -> None:
    places = [f"ipc {Path(endpoints['ipc']['commands']).parent}"]
    if "tcp" in endpoints:
        places.append(f"tcp ports {', '.join(str(port) for port in endpoints['tcp'].values())}")
    click.echo(f"armin: serving {' and '.join(places)}")
    sys.stdout.flush()


class _Progress:
    """Says on standard error how far recovery is, on large files."""

    def __init__(self, log_json: bool) -> None:
        self._next = PROGRESS_FACTS
        self._log_json = log_json

    def __call__(self, done: int, total: int) -> None:
        if done >= self._next:
            self._next = done + PROGRESS_FACTS
            message = f"recovering, {done} of {total} facts ({100 * done // total} %)"
            _say(message, logging.INFO, self._log_json, done=done, total=total)
