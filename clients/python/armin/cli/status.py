"""`armin status`: one screen about the engine."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import on_terminal, write_json
from armin.cli.shown import line
from armin.errors import NoReply
from armin.results import Hello

MIB: Final = 1 << 20


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
            hello, stats = client.hello(), client.stats()
    except NoReply as error:
        if as_json:
            write_json(
                {"state": "recovering" if error.reason == "recovering" else "absent", "reason": error.reason}
            )
        raise
    code = Exit.OK if stats["writes_refused"] is None else Exit.STORAGE
    if as_json:
        write_json({"state": "serving", **_identity(hello), **stats})
        return code
    rows = _rows(hello, stats)
    if on_terminal():
        from armin.cli import terminal  # noqa: PLC0415 - rich costs time that pipes need not pay

        terminal.facts(rows)
    else:
        for name, value in rows:
            click.echo(f"{name:<12}{line(value)}")
    return code


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
        "limits": hello.limits,
    }


def _rows(hello: Hello, stats: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("state", _state(stats)),
        ("engine", f"armin {hello.version}, pid {stats['pid']}, up {_duration(stats['uptime_ms'])}"),
        ("endpoints", "; ".join(_endpoint(*item) for item in hello.endpoints.items())),
        ("database", f"{hello.database}, epoch {hello.epoch}"),
        ("durability", _durability(hello.durability)),
        ("position", f"{stats['position']:,}"),
        ("sessions", f"{stats['sessions']:,}, {stats['sessions_closed']:,} of them closed"),
        ("messages", f"{stats['messages']:,}"),
        ("memory", _memory(stats["history_bytes"], stats["memory_budget_bytes"])),
        ("snapshot", f"at {stats['snapshot_position']:,}, {stats['delta_messages']:,} messages since"),
        ("effects", _effects(stats)),
        ("trouble", _trouble(stats)),
    ]


def _state(stats: dict[str, Any]) -> str:
    reason = stats["writes_refused"]
    return (
        "serving"
        if reason is None
        else f"serving reads, REFUSING ALL WRITES ({reason}); its log says what to do"
    )


def _duration(milliseconds: int) -> str:
    seconds = milliseconds // 1000
    for size, unit, part, part_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {part_unit}"
    return f"{seconds} s"


def _endpoint(transport: str, sockets: dict[str, Any]) -> str:
    if transport == "ipc":
        return f"ipc {os.path.dirname(str(sockets.get('commands')))}"
    return f"{transport} ports {', '.join(str(port) for port in sockets.values())}"


def _durability(durability: dict[str, Any]) -> str:
    modes = ", ".join(
        f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in durability.items()
    )
    return f"acknowledged means on disk ({modes})"


def _memory(used: int, budget: int) -> str:
    return f"{used / MIB:,.1f} MiB of history; the budget is {budget / MIB:,.0f} MiB ({used / budget:.1%})"


def _effects(stats: dict[str, Any]) -> str:
    sent, backlog, dropped = (stats[f"effects_{name}"] for name in ("sent", "backlog", "dropped"))
    return f"{sent:,} sent, {backlog:,} wait for a worker, {dropped:,} dropped"


def _trouble(stats: dict[str, Any]) -> str:
    """What an operator should know about; each is zero on a good day."""
    counted = (
        ("commits failed", stats["commits_failed"]),
        ("replies lost", stats["replies_lost"]),
        ("reads that healed a follower", stats["heals"]),
        ("effects failed", stats["effects_failed"]),
    )
    return ", ".join(f"{count:,} {what}" for what, count in counted)
