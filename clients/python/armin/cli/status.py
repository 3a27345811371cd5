"""`armin status`: one screen about the engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.figures import NONE, Stats, amount, duration, milliseconds, rate, share, size, state, trouble
from armin.cli.options import json_option
from armin.cli.output import moment, on_terminal, write_json
from armin.cli.shown import line
from armin.client import Client
from armin.errors import NoReply, UnknownOp
from armin.results import Hello

Row = tuple[str, str]


@click.command(short_help="Say how the engine is.")
@json_option
@click.pass_obj
def status(where: Where, as_json: bool) -> int:
    """Say how the engine is.

    Exit code 0 when it answers, 7 when it refuses all writes, 17 while it is recovering, 3 when there
    is none.

    \b
      armin status --json | jq .effects_backlog
    """
    try:
        with where.connect() as client:
            hello, stats, reasons = client.hello(), Stats(client.stats()), not_ready(client)
    except NoReply as error:
        if as_json:
            write_json(absent(error))
        raise
    code = Exit.OK if stats["writes_refused"] is None else Exit.STORAGE
    if as_json:
        write_json({"state": "serving", "reasons": list(reasons), **_identity(hello), **stats})
        return code
    found = sections(hello, stats, reasons)
    if on_terminal():
        from armin.cli import terminal  # noqa: PLC0415 - rich costs time that pipes need not pay

        terminal.console().print(terminal.sections(found, troubled(stats, reasons)))
    else:
        for name, value in (row for rows in found for row in rows):
            click.echo(f"{name:<12}{line(value)}")
    return code


def absent(error: NoReply) -> dict[str, Any]:
    """What programs get in place of an engine's figures."""
    return {"state": "recovering" if error.reason == "recovering" else "absent", "reason": error.reason}


def not_ready(client: Client) -> tuple[str, ...]:
    """Why the engine is not ready; an older one does not say."""
    try:
        return client.health().reasons
    except UnknownOp:
        return ()


def _identity(hello: Hello) -> dict[str, Any]:
    return {
        "protocol": hello.protocol,
        "version": hello.version,
        "features": list(hello.features),
        "database": hello.database,
        "epoch": hello.epoch,
        "engine": hello.engine,
        "endpoints": hello.endpoints,
        "durability": hello.durability,
        "role": hello.role,
        "limits": hello.limits,
    }


def troubled(stats: Stats, reasons: Sequence[str]) -> frozenset[str]:
    """Names of the rows that deserve a colour."""
    found = {"trouble"} if trouble(stats) else set()
    return frozenset(found | ({"state"} if reasons or stats["writes_refused"] is not None else set()))


def sections(hello: Hello, stats: Stats, reasons: Sequence[str]) -> list[list[Row]]:
    """Names and values, what belongs together in one list."""
    return [
        [
            ("state", state(stats, reasons)),
            ("engine", f"armin {hello.version}, pid {stats['pid']}, up {duration(stats['uptime_ms'])}"),
            ("endpoints", "; ".join(_endpoint(*item) for item in hello.endpoints.items())),
            ("database", f"{hello.database}, epoch {hello.epoch}"),
            ("on disk", _durability(hello.durability)),
        ],
        [
            ("position", amount(stats["position"])),
            ("sessions", f"{stats['sessions']:,}, {stats['sessions_closed']:,} of them closed"),
            ("messages", amount(stats["messages"])),
            ("memory", _memory(stats["history_bytes"], stats["memory_budget_bytes"])),
            ("snapshot", _snapshot(stats)),
            ("recovery", f"{amount(stats['recovered_facts'])} facts in {milliseconds(stats['recovery_ms'])}"),
        ],
        [
            ("a second", _rates(stats)),
            ("commit", _percentiles([milliseconds(stats[f"commit_ms_{end}"]) for end in ENDS])),
            ("group", _percentiles([amount(stats[f"group_size_{end}"]) for end in ENDS], " writes")),
        ],
        [
            ("connections", _connections(stats)),
            (
                "effects",
                f"{amount(stats['effects_sent'])} sent, {amount(stats['effects_backlog'])} wait,"
                f" {amount(stats['effects_dropped'])} dropped",
            ),
            ("workers", _workers(stats)),
            *([("backup", _backup(stats))] if "backup_finished_at" in stats else []),
            ("trouble", ", ".join(trouble(stats)) or "none"),
        ],
    ]


ENDS: Final = ("p50", "p99", "max")


def _percentiles(three: Sequence[str], unit: str = "") -> str:
    p50, p99, most = three
    if most == NONE:
        return "none in the last minute"
    return f"p50 {p50}, p99 {p99}, at most {most}{unit} (last minute)"


def _rates(stats: Stats) -> str:
    commands, facts, commits = (rate(stats[f"{name}_per_s"]) for name in ("commands", "facts", "commits"))
    return f"{commands} commands, {facts} facts, {commits} commits (last 10 s)"


def _endpoint(transport: str, sockets: dict[str, Any]) -> str:
    if transport == "ipc":
        return f"ipc {os.path.dirname(str(sockets.get('commands')))}"
    return f"{transport} ports {', '.join(str(port) for port in sockets.values())}"


def _durability(durability: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in durability.items()
    )


def _memory(used: int, budget: int) -> str:
    return f"{size(used)} of history; the budget is {size(budget)} ({share(used, budget):.1%})"


def _snapshot(stats: Stats) -> str:
    since = f"{stats['delta_messages']:,} messages ({size(stats['delta_bytes'])}) since"
    return f"at {stats['snapshot_position']:,}, {since}; WAL {size(stats['wal_bytes'])}"


def _connections(stats: Stats) -> str:
    ipc, tcp, followers = (
        amount(stats[name]) for name in ("connections_ipc", "connections_tcp", "followers")
    )
    return f"{ipc} by ipc, {tcp} by tcp; {followers} of them followers"


def _workers(stats: Stats) -> str:
    groups, waiting, leased, dead = (
        amount(stats[name]) for name in ("worker_groups", "waiting", "leased", "dead")
    )
    return f"{groups} groups: {waiting} effects wait, {leased} leased, {dead} dead letters"


def _backup(stats: Stats) -> str:
    return moment(stats["backup_finished_at"]) or "none since the start"
