"""Exit codes and the one line that says what went wrong and what to do next."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import click
import pytest
import zmq

from armin import errors
from armin.cli import exits
from armin.cli.exits import Exit
from armin.cli.main import COMMANDS, cli
from armin.cli.verify import EXIT_CODES
from armin_broker import daemon
from command_line import COMMAND, CommandLine
from harness import Engine


@pytest.fixture
def nowhere() -> CommandLine:
    return CommandLine()


def refused(armin: CommandLine, *arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Exit code and the one line of a command that fails."""
    result = armin.run(*arguments, stdin=stdin)
    assert result.err.startswith("armin: "), result
    assert result.err.count("\n") == 1, result
    assert result.out == ""
    return result.code, result.err[7:-1]


def test_without_an_engine_named_it_says_how_to_name_one(nowhere: CommandLine) -> None:
    for command in (("read", "1"), ("status",), ("new",), ("verify",), ("effects",)):
        code, text = refused(nowhere, *command)
        assert code == 2
        for way in ("--dir", "--url", "ARMIN_DIR", "ARMIN_URL"):
            assert way in text
    code, text = refused(nowhere, "serve")
    assert code == 2
    assert "armin serve DIRECTORY" in text


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("read", "1", "--dir", "x"), "--dir goes before the command"),
        (("--dir", "a", "--url", "tcp://b:1", "status"), "either --dir or --url"),
        (("--url", "somewhere", "status"), "a directory goes to --dir"),
        (("--url", "tcp://host", "status"), "tcp://HOST:PORT"),
        (("--dir", "", "status"), "--dir is empty"),
        (("serve", ""), "DIRECTORY is empty"),
        (("nonsense",), "armin --help"),
        (("append", "1", "robot", "hi"), "armin append --help"),
        (("append", "1"), "armin append --help"),
        (("read", "1", "--last", "0"), "armin read --help"),
        (("--dir", "x" * 120, "status"), "shorter path"),
    ],
)
def test_usage_errors_are_one_line_with_a_hint(
    nowhere: CommandLine, arguments: tuple[str, ...], hint: str
) -> None:
    code, text = refused(nowhere, *arguments)
    assert code == 2
    assert hint in text


def test_no_engine_is_noticed_at_once_and_named(short_dir: Path) -> None:
    code, text = refused(CommandLine(short_dir / "absent"), "append", "1", "user", "hi")
    assert code == 3
    assert "no such directory" in text
    assert "armin serve" in text
    code, text = refused(CommandLine(short_dir), "read", "1")
    assert code == 3
    assert f"armin serve {short_dir}" in text
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        code, text = refused(CommandLine(ARMIN_URL=f"tcp://127.0.0.1:{free.getsockname()[1]}"), "new")
    assert code == 3
    assert "nothing answered at 127.0.0.1" in text


def test_a_recovering_engine_has_its_own_exit_code(short_dir: Path) -> None:
    (short_dir / "armin.db.lock").write_text(f"{os.getpid()}\nrecovering\n", "ascii")
    armin = CommandLine(short_dir)
    for command in (("status",), ("new",), ("verify",)):
        code, text = refused(armin, *command)
        assert code == 17
        assert f"pid {os.getpid()}" in text
        assert "recovering" in text
    assert armin.run("status", "--json").out == '{"state": "recovering", "reason": "recovering"}\n'


def test_something_else_that_listens_is_not_taken_for_an_engine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        armin = CommandLine(ARMIN_URL=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        code, text = refused(armin, "--timeout", "0.3", "new")
    assert code == 3
    assert "0.3 s" in text


def test_a_write_whose_answer_is_lost_says_that_its_outcome_is_unknown(short_dir: Path) -> None:
    (short_dir / "armin.db.lock").write_text(f"{os.getpid()}\nserving\n", "ascii")
    armin = CommandLine(short_dir)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as deaf:
        deaf.bind(f"ipc://{short_dir}/commands.sock")
        code, text = refused(armin, "--timeout", "3", "new")  # in which it connects
        assert code == 7
        assert "outcome of this write is unknown" in text
        code, text = refused(armin, "--timeout", "0.3", "sessions")
        assert code == 3
        assert "0.3 s" in text


def test_each_refusal_has_its_code(engine: Engine) -> None:
    armin = CommandLine(engine.directory)
    armin.ok("new")
    armin.ok("new", "--name", "ended")
    armin.ok("close", "ended")
    for code, *arguments in (
        (4, "read", "99"),
        (4, "read", "nobody"),
        (4, "close", "nobody"),
        (4, "append", "99", "user", "x"),
        (4, "follow", "99"),
        (5, "append", "ended", "user", "x"),
        (5, "append", "1", "user", "x", "--expect-seq", "5"),
        (6, "append", "1", "user", "x", "--meta", '{"deep": ' + "[" * 20 + "]" * 20 + "}"),
        (6, "new", "--name", "x" * 600),
        (6, "read", "0"),
        (6, "read", "1", "--after", "4"),
        (2, "new", "--meta", "[]"),
    ):
        assert refused(armin, *map(str, arguments))[0] == code, arguments


def test_wait_is_for_an_engine_that_comes_later(short_dir: Path) -> None:
    engine = Engine(short_dir / "later")
    armin = CommandLine(engine.directory)
    created: list[str] = []
    thread = threading.Thread(target=lambda: created.append(armin.ok("--wait", "80", "new")))
    thread.start()
    engine.start()
    try:
        thread.join(80)
        assert created == ["1\n"]
    finally:
        engine.stop()


def test_serve_keeps_its_own_exit_codes(engine: Engine, short_dir: Path) -> None:
    armin = CommandLine(engine.directory)
    code, text = refused(armin, "serve")
    assert code == 10
    assert str(engine.pid) in text
    (short_dir / "foreign").mkdir(mode=0o700)
    (short_dir / "foreign" / "armin.db").write_bytes(b"not a database" * 100)
    assert refused(armin, "serve", str(short_dir / "foreign"))[0] == 11
    assert refused(armin, "--dir", str(short_dir / "foreign"), "serve")[0] == 11


def test_closed_standard_output_is_no_traceback(engine: Engine) -> None:
    command = " ".join(COMMAND)
    environ = CommandLine(engine.directory).environ
    done = subprocess.run(
        ["sh", "-c", f"{command} new >&-; {command} read 1 2>&-; {command} new > /dev/full; echo $?"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == "18\n"
    assert "No space left on device" in done.stderr


def test_help_shows_an_example_of_each_command_and_the_table_of_exit_codes(nowhere: CommandLine) -> None:
    overview = nowhere.ok("--help")
    for code, meaning in exits.MEANINGS:
        assert re.search(rf"^ +{code}  {re.escape(meaning)}$", overview, re.MULTILINE)
    context = click.Context(cli, info_name="armin", terminal_width=80)
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S.*[a-z]\.$", overview, re.MULTILINE), f"{name}: no short help"
        command = cli.get_command(context, name)
        assert command is not None
        text = command.get_help(click.Context(command, context, name))
        usage, _, rest = text.partition("\n")
        assert usage.startswith(f"Usage: armin {name} ")
        assert f"armin {name}" in rest, f"{name}: no example"
        assert max(map(len, text.splitlines())) <= 80
    assert nowhere.ok() == overview, "no command: the same"
    assert re.fullmatch(r"armin \d+\.\d+\.\d+\S*\n", nowhere.ok("--version"))


def test_the_table_of_exit_codes_is_whole_and_agrees_with_the_daemons() -> None:
    serves = {"10-16": range(10, 17), "19, 22-24": (19, 22, 23, 24)}
    listed = dict(exits.MEANINGS)
    assert {int(code) for code in listed.keys() - serves} == {code.value for code in Exit}
    assert sorted(daemon.EXIT_CODES.values()) == sorted(code for codes in serves.values() for code in codes)
    assert serves.keys() <= listed.keys()
    assert EXIT_CODES.items() <= daemon.EXIT_CODES.items()


def test_every_error_of_the_client_has_a_code_of_its_own_kind() -> None:
    for kind in errors.ArminError.__subclasses__():
        if kind is not errors.NoReply:
            assert exits.of(kind("x"), writes=False) not in (Exit.OK, Exit.NO), kind
    lost = errors.NoReply("x", reason="silent", sent=True)
    assert exits.of(lost, writes=True) is Exit.STORAGE
    assert exits.of(lost, writes=False) is Exit.NO_ENGINE


def test_a_file_named_as_the_engine_s_directory_is_said_to_be_none(short_dir: Path) -> None:
    file = short_dir / "armin.db"
    file.write_bytes(b"")
    code, text = refused(CommandLine(file), "status")
    assert code == 3
    assert text == f"not a directory: {file} (name the one that holds the database)"


def test_an_engine_whose_socket_file_was_deleted_is_to_be_restarted(engine: Engine) -> None:
    (engine.directory / "commands.sock").unlink()
    code, text = refused(CommandLine(engine.directory), "--timeout", "0.3", "status")
    assert code == 3
    assert text == (
        f"an engine is there (pid {engine.pid}) but its socket file {engine.directory}/commands.sock"
        " is missing (restart the engine, which makes it anew)"
    )
