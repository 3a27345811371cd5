"""docs/operations.md and the files under deploy/ say what the code does, and run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
import tomllib
from pathlib import Path

import pytest

from armin_broker import daemon
from armin_broker.exposition import COUNTERS, GAUGES, GROUP_GAUGES
from command_line import CommandLine
from harness import Engine

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
UNITS = sorted(path.name for path in DEPLOY.glob("*@.*"))
WRONG_USAGE = 2  # of any command


def section(heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return re.split(rf"^#+ {heading}\n(.*?)(?=^#)", OPERATIONS, maxsplit=1, flags=re.MULTILINE | re.DOTALL)[1]


def console(heading: str) -> list[str]:
    """The commands shown under a heading."""
    return re.findall(r"^\$ (.*?)(?:  +#.*)?$", section(heading), re.MULTILINE)


# --- the page -------------------------------------------------------------------------------------


def test_the_table_of_exit_codes_is_the_daemons() -> None:
    shown = re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)
    assert [int(code) for code in shown] == [WRONG_USAGE, *daemon.EXIT_CODES.values()]


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"(?s)```.*?```", "", OPERATIONS), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]*)\)", OPERATIONS))
    assert len(links) > 10
    assert links <= slugs


def test_the_commands_about_keys_run(short_dir: Path) -> None:
    armin = CommandLine()
    commands = [command for command in console("Keys") if command.startswith("armin --dir DIR")]
    assert [command.split()[4] for command in commands] == ["new", "list", "revoke"]
    for command in commands:
        placed = command.replace("DIR", f"{short_dir}/d").replace("alice.key", f"{short_dir}/alice.key")
        assert armin.run(*placed.split()[1:]).code == 0
    assert (short_dir / "alice.key").exists()
    assert not (short_dir / "d" / "keys" / "alice.json").exists()


def test_a_holder_gets_in_as_shown_and_after_a_new_server_key_only_with_a_new_file(short_dir: Path) -> None:
    directory = short_dir / "d"
    armin = CommandLine()
    (connect,) = (command for command in console("Keys") if command.startswith("armin --url"))

    def new(file: str) -> None:
        command = ("--dir", str(directory), "keys", "new", "alice", "--role", "reader")
        assert armin.run(*command, "--out", str(short_dir / file)).code == 0

    def sessions(engine: Engine, file: str) -> int:
        with engine.peer() as peer:
            port = peer.ask("hello")["endpoints"]["tcp"]["commands"]
        command = connect.replace("host:7450", f"127.0.0.1:{port}").replace(
            "alice.key", f"{short_dir}/{file}"
        )
        return armin.run("--timeout", "10", *command.split()[1:]).code

    new("old.key")
    engine = Engine(directory, "--tcp", "127.0.0.1:0").start()
    assert sessions(engine, "old.key") == 0
    assert engine.stop() == 0
    assert "`mv DIR/keys DIR/keys.old`" in section("A key is lost or stolen")
    (directory / "keys").rename(directory / "keys.old")
    new("new.key")
    engine.start()
    assert sessions(engine, "new.key") == 0
    assert sessions(engine, "old.key") == 3
    assert engine.stop() == 0


@pytest.mark.parametrize("heading", ["Backups", "A container"])
def test_backup_and_restore_run_as_shown(short_dir: Path, heading: str) -> None:
    """In a container DIR is /data, the disk /backups; what runs the container is left away."""
    shown = [re.sub(r"^podman .*? armin (?=backup|restore)", "armin ", line) for line in console(heading)]
    shown = [re.sub(r"^armin backup", "armin --dir /data backup", line) for line in shown]
    backup, restore, *verify = (
        line for line in shown if re.search(r"^armin.* (backup|restore|verify)\b", line)
    )
    disk, directory = short_dir / "disk", short_dir / "d"
    disk.mkdir()
    engine = Engine(directory).start()
    with engine.peer() as peer:
        assert peer.ask("create_session")["ok"]

    def placed(command: str) -> list[str]:
        made = next(disk.iterdir(), disk)
        command = re.sub(r"(/mnt/other-disk/chat|/backups)/armin-\S+", str(made), command)
        command = re.sub(r" (/mnt/other-disk/chat|/backups)\b", f" {disk}", command)
        return re.sub(r" (DIR|/data)\b", f" {directory}", command).split()[1:]

    armin = CommandLine()
    assert armin.run(*placed(backup)).code == 0
    assert engine.stop() == 0
    assert armin.run(*placed(restore)).code == 0
    for command in verify:
        assert armin.run(*placed(command)).code == 0
    assert list(directory.glob("armin.db.replaced-*"))


# --- the service files ----------------------------------------------------------------------------


def test_restarts_are_left_out_where_they_cannot_help() -> None:
    unit = (DEPLOY / "armin@.service").read_text("utf-8")
    (listed,) = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    may_pass_by_itself = {15, 16, 24}  # a disk that is full, a port that is taken
    assert {int(code) for code in listed.split()} == {
        WRONG_USAGE,
        *set(daemon.EXIT_CODES.values()) - may_pass_by_itself,
    }


@pytest.fixture
def units(short_dir: Path) -> Path:
    """The units, with an executable where they look for one."""
    program = short_dir / "armin"
    program.write_text("#!/bin/sh\n", "ascii")
    program.chmod(0o755)
    for name in UNITS:
        text = (DEPLOY / name).read_text("utf-8").replace("/opt/armin/bin/armin", str(program))
        (short_dir / name).write_text(text, "utf-8")
    return short_dir


def analyze(*arguments: str, directory: Path) -> str:
    """What systemd-analyze says; it must have succeeded."""
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(units: Path, name: str) -> None:
    said = analyze("verify", "--man=no", f"./{name}", directory=units)
    assert not [line for line in said.splitlines() if name.split("@", maxsplit=1)[0] in line], said


@needs_systemd
@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_a_service_is_as_closed_as_its_comment_says(units: Path, name: str) -> None:
    said = analyze("security", "--offline=true", f"./{name}", directory=units)
    (stated,) = re.findall(r"systemd-analyze security: ([\d.]+)", (DEPLOY / name).read_text("utf-8"))
    (found,) = re.findall(r"Overall exposure level for .*: ([\d.]+)", said)
    assert float(found) <= float(stated) + 0.3  # each systemd weighs a little otherwise
    assert f"{stated} (" in section("systemd")


def test_the_alerts_name_metrics_that_exist() -> None:
    named = set(re.findall(r"\barmin_\w+", (DEPLOY / "alerts.yaml").read_text("utf-8")))
    of_stats = {each.metric for each in (*GAUGES, *COUNTERS, *GROUP_GAUGES)}
    others = {"armin_figures_age_seconds", "armin_writes_refused", "armin_commit_duration_seconds_bucket"}
    assert len(named) > 10
    assert named <= of_stats | others
    in_the_table = set(re.findall(r"^\| `(armin_\w+)`", OPERATIONS, re.MULTILINE))
    assert {name.removesuffix("_bucket") for name in others} <= in_the_table


def test_each_figure_that_deserves_an_alarm_has_a_rule() -> None:
    expressions = re.findall(r"expr: (.*)", (DEPLOY / "alerts.yaml").read_text("utf-8"))
    metrics = {each.field: each.metric for each in (*GAUGES, *COUNTERS, *GROUP_GAUGES)}
    metrics |= {"writes_refused": "armin_writes_refused", "commit_ms_p99": "armin_commit_duration_seconds"}
    metrics |= {"dead": "armin_effects_died_total"}  # the number of dead letters that there are is no rate
    table = section("Seeing inside").split("What deserves an alarm")[1]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    fields = [field for row in rows for field in re.findall(r"`(\w+)`", row)]
    assert len(fields) > 10
    for field in fields:
        assert any(metrics[field] in expression for expression in expressions), field


def test_the_backups_kept_are_as_many_as_the_page_says() -> None:
    unit = (DEPLOY / "armin-backup@.service").read_text("utf-8")
    kept = int(re.findall(r"^Environment=ARMIN_BACKUP_KEEP=(\d+)$", unit, re.MULTILINE)[0])
    assert f"keeps {kept} in" in section("Backups")
    assert f"needs {kept + 1} times" in section("Backups")


@needs_systemd
def test_the_unit_that_tells_of_a_failure_is_one(units: Path) -> None:
    (shown,) = re.findall(r"```ini\n(.*?)```", section("Is there a backup"), re.DOTALL)
    (units / "armin-alarm@.service").write_text(textwrap.dedent(shown), "utf-8")
    backup = units / "armin-backup@.service"
    (on_failure,) = re.findall(r"`(OnFailure=[^`]*)`", section("Is there a backup"))
    backup.write_text(backup.read_text("utf-8").replace("\n[Unit]\n", f"\n[Unit]\n{on_failure}\n"), "utf-8")
    said = analyze("verify", "--man=no", "./armin-backup@.service", "./armin-alarm@.service", directory=units)
    assert "armin-" not in said, said


def test_the_container_is_built_from_all_that_the_wheel_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = ["pyproject.toml", "constraints.txt", project["project"]["readme"], "LICENSE"]
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    taken = [line[1:] for line in ignored if line.startswith("!")]
    for path in (*files, *wheel["packages"], *wheel["only-include"]):
        assert any(path == each or path.startswith(f"{each}/") for each in taken), path


def test_the_container_runs_commands_that_exist(engine: Engine) -> None:
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    probe = json.loads(re.findall(r"CMD (\[\"armin\".*\])$", text, re.MULTILINE)[0])
    serve = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[0])
    assert serve == ["serve", "/data"]
    assert CommandLine(engine.directory).run(*probe[1:]).code == 0
    assert engine.stop() == 0
    assert CommandLine(engine.directory).run(*probe[1:]).code == 3
