"""Entry point of the `armin` command: which command it is, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click
from click.shell_completion import shell_complete

from armin.cli import exits, shown
from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.errors import ArminError

# Where each command is found; imported when it is called, so that `armin read` need not pay for `serve`.
COMMANDS: Final[Mapping[str, str]] = {
    "serve": "armin.cli.serve",
    "status": "armin.cli.status",
    "health": "armin.cli.health",
    "top": "armin.cli.top",
    "new": "armin.cli.sessions",
    "append": "armin.cli.messages",
    "read": "armin.cli.messages",
    "follow": "armin.cli.streams",
    "close": "armin.cli.sessions",
    "sessions": "armin.cli.sessions",
    "log": "armin.cli.streams",
    "effects": "armin.cli.streams",
    "worker": "armin.cli.worker",
    "groups": "armin.cli.groups",
    "dead-letters": "armin.cli.groups",
    "requeue": "armin.cli.groups",
    "discard": "armin.cli.groups",
    "drop-group": "armin.cli.groups",
    "import": "armin.cli.transfer",
    "export": "armin.cli.transfer",
    "verify": "armin.cli.verify",
    "keys": "armin.cli.keys",
    "backup": "armin.cli.backup",
    "restore": "armin.cli.restore",
    "torture": "armin.cli.torture",
    "conformance": "armin.cli.conformance",
}
WRITES: Final = frozenset(  # an answer lost: the outcome is unknown
    {"new", "append", "close", "import", "requeue", "discard", "drop-group"}
)
COMPLETE_VARIABLE: Final = "_ARMIN_COMPLETE"
BEFORE_THE_COMMAND: Final = ("--dir", "--url", "--key", "--wait", "--timeout")

logger = logging.getLogger(__name__)


class Commands(click.Group):
    """The commands in the order of the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, imported now; in its module it is named so, `import` with an underscore behind."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name])
        found = next(
            value
            for value in vars(module).values()
            if isinstance(value, click.Command) and value.name == cmd_name
        )
        return found


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"\b\nExit codes:\n{exits.table()}",
)
@click.version_option(package_name="armin", message="armin %(version)s")
@click.option(
    "--dir",
    "directory",
    metavar="DIR",
    help="The engine's directory [default: ARMIN_DIR].",
)
@click.option("--url", metavar="URL", help="Its address, tcp://HOST:PORT or ipc://DIR [default: ARMIN_URL].")
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The key to come in with by TCP, as armin keys new wrote it [default: ARMIN_KEY].",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Wait this long for an engine that is not there yet, or recovering; inf is for ever.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Wait this long for each answer.",
)
@click.pass_context
def cli(
    ctx: click.Context,
    directory: str | None,
    url: str | None,
    key: Path | None,
    wait: float,
    timeout: float,
) -> None:
    """Durable conversations, shared by many processes.

    Name the engine once, with ARMIN_DIR or ARMIN_URL:

    \b
      export ARMIN_DIR=./armin-data
      armin serve &
      id=$(armin --wait 10 new)
      armin append "$id" user "hello"
      armin read "$id"
    """
    if directory is not None and url is not None:
        raise click.UsageError("give either --dir or --url")
    if directory == "":
        raise click.UsageError("--dir is empty; is a variable not set?")
    if url is not None and "://" not in url:
        raise click.UsageError(f"{url} is not tcp://HOST:PORT or ipc://DIR; a directory goes to --dir")
    ctx.obj = Where(None if directory is None else Path(directory), url, key, wait=wait, timeout=timeout)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is for a script's background jobs
        signal.signal(signal.SIGINT, _interrupt)
    _prepare_streams()
    code = _run(sys.argv[1:] if arguments is None else list(arguments))
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # The second Ctrl-C ends the process at once, whatever the first one is busy with.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _prepare_streams() -> None:
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115 - for good
    if not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    else:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _run(arguments: list[str]) -> int:
    context: click.Context | None = None
    try:
        if COMPLETE_VARIABLE in os.environ:
            return shell_complete(cli, {}, "armin", COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])
        with cli.make_context("armin", arguments) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else Exit.OK
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        return _say(_usage(error), Exit.USAGE)
    except ArminError as error:
        writes = context is not None and context.invoked_subcommand in WRITES
        return _say(exits.explained(error), exits.of(error, writes=writes))
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            click.echo(err=True)  # the terminal has written ^C into the line
        return _hush(Exit.INTERRUPTED)
    except BrokenPipeError:
        return _hush(Exit.PIPE_CLOSED)
    except OSError as error:
        return _say(_about_file(error), Exit.FILE)
    except Exception:
        logger.exception("armin: this is a bug")
        return Exit.BUG


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # what was printed before comes first
    with contextlib.suppress(OSError):
        click.echo(f"armin: {shown.line(message)}", err=True)
    return _hush(code)


def _hush(code: int) -> int:
    """Let nothing wait or go wrong on the way out: what is still buffered has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and error.option_name in BEFORE_THE_COMMAND:
        return f"{error.option_name} goes before the command: armin {error.option_name} ... COMMAND"
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    if message[1:2].islower():
        message = message[0].lower() + message[1:]
    return f"{message.rstrip('.')} (see: {context.command_path} --help)"


def _about_file(error: OSError) -> str:
    name = "" if error.filename is None else f"{error.filename}: "
    return f"{name}{error.strerror or error}"


if __name__ == "__main__":
    main()
