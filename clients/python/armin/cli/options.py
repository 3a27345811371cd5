"""Arguments and options that several commands have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def _json_map(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{value} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f'{value} is not a JSON object, as {{"model": "m1"}} is one')
    return found


meta_option = click.option("--meta", callback=_json_map, metavar="JSON", help="JSON object to keep with it.")


def session_argument(command: C) -> C:
    """Add the argument SESSION and the flag that makes it a name."""
    flag = click.option(
        "--name", "by_name", is_flag=True, help="SESSION is a name, though it looks like a number."
    )
    return click.argument("session")(flag(command))
