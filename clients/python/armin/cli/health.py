"""`armin health`: an exit code for containers, timers and load balancers."""

from __future__ import annotations

from typing import Any

import click

from armin.cli import figures
from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import write_json
from armin.errors import NoReply
from armin.results import Health


@click.command(short_help="Say by exit code whether the engine is ready.")
@click.option("--live", is_flag=True, help="Alive is enough: 0 while it recovers or is not ready, too.")
@json_option
@click.pass_obj
def health(where: Where, live: bool, as_json: bool) -> int:
    """Say whether the engine is ready to do its work.

    Exit code 0 when it is; 7 when it is alive but refuses writes, its commits fail, or its history is over
    the memory budget; 17 while it recovers; 3 when none answers. With --live: 0 in all cases but the last.

    \b
      armin --dir /srv/chat --timeout 2 health || echo "not ready"
      armin health --live --json | jq -r .state
    """
    try:
        with where.connect() as client:
            found = client.health()
    except NoReply as error:
        return _without(error, live, as_json)
    if as_json:
        write_json(_record(found.live, found.ready, found.state, found.reasons))
    else:
        click.echo(_line(found))
    return Exit.OK if found.ready or live else Exit.STORAGE


def _without(error: NoReply, live: bool, as_json: bool) -> int:
    recovering = error.reason == "recovering"
    if as_json:
        state = "recovering" if recovering else "absent"
        write_json(_record(recovering, False, state, (str(error.reason),)))
    if not (recovering and live):
        raise error
    if not as_json:
        click.echo("recovering")
    return Exit.OK


def _line(found: Health) -> str:
    if found.ready:
        return "ready"
    return f"not ready: {', '.join(figures.REASONS.get(reason, reason) for reason in found.reasons)}"


def _record(live: bool, ready: bool, state: str, reasons: tuple[str, ...]) -> dict[str, Any]:
    return {"live": live, "ready": ready, "state": state, "reasons": list(reasons)}
