"""`armin keys`: who may come in by TCP."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

import click

from armin.cli.connection import Where
from armin.cli.exits import Exit
from armin.cli.options import json_option
from armin.cli.output import Column, Listing, View, moment, note, write_json
from armin.cli.records import Record
from armin.cli.shown import line
from armin.errors import BadRequest, TargetError
from armin.target import DIR_VARIABLE
from armin_broker.keyring import ClientKey, KeyRefused, Keyring, KeysInvalid
from armin_broker.protocol import KEY_ROLES, KEYS_DIRECTORY


def _record(key: ClientKey) -> Record:
    return {"name": key.name, "role": key.role, "public": key.public, "created_at": key.created_at}


KEYS: Final[View[ClientKey]] = View(
    (Column("made", 19, style="dim"), Column("public key", 40), Column("role", 6), Column("name")),
    lambda key: (moment(key.created_at), key.public, key.role, key.name),
    _record,
)


@click.group(short_help="Say who may come in by TCP, and to do what.")
def keys() -> None:
    """Say who may come in by TCP, and what they may do there.

    A reader reads and follows; a writer also writes; a worker also takes effects; an admin also refreshes,
    verifies, backs up and looks after worker groups. Whoever uses the directory's own sockets needs no key.

    The first key locks the engine's TCP ports: restart an engine that serves them without keys. From then
    on it takes up new keys, and cuts revoked ones off, within a second.

    \b
      armin keys new alice --role writer --out alice.key
      armin --url tcp://host:7450 --key alice.key sessions
      armin keys revoke alice
    """


@keys.command(short_help="Make a key.")
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(KEY_ROLES), help="What its holder may do.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the holder's file there instead of DIR/keys/NAME.key.",
)
@json_option
@click.pass_obj
def new(where: Where, name: str, role: str, out: Path | None, as_json: bool) -> None:
    """Make a key for NAME and write the file that its holder connects with.

    That file holds a secret. Bring it to its holder in a safe way; the engine does not need it.
    """
    keyring = _keyring(where)
    try:
        made, file = keyring.new(name, role, out)
    except FileExistsError as error:
        raise FileExistsError(errno.EEXIST, "it is there already", error.filename2) from None
    except KeyRefused as error:
        raise BadRequest(str(error), field="name") from None
    except KeysInvalid as error:
        raise TargetError(str(error), field="key") from None
    if as_json:
        write_json({**_record(made), "file": str(file)})
        return
    click.echo(file)
    note(
        f"{line(name)} may come in as {role} with this file: ARMIN_KEY={line(str(file))}, or armin --key FILE"
    )


@keys.command(name="list", short_help="List the keys.")
@json_option
@click.pass_obj
def list_keys(where: Where, as_json: bool) -> int:
    """List the keys in force; exit code 1 if others cannot be used, with the reasons on standard error."""
    keyring = _keyring(where)
    found, problems = keyring.clients() if keyring.exists() else ([], [])
    for problem in problems:
        note(line(problem))
    Listing(KEYS, as_json=as_json).show(sorted(found, key=lambda key: key.name))
    return Exit.NO if problems else Exit.OK


@keys.command(short_help="Revoke a key.")
@click.argument("name")
@click.pass_obj
def revoke(where: Where, name: str) -> None:
    """Revoke the key of NAME: a running engine cuts its connections within a second."""
    keyring = _keyring(where)
    try:
        keyring.revoke(name)
    except KeyRefused as error:
        raise BadRequest(str(error), field="name") from None


def _keyring(where: Where) -> Keyring:
    if where.url is not None:
        raise click.UsageError(
            "keys are kept in the engine's directory, so name that: armin --dir DIR keys ..."
        )
    directory = where.directory or os.environ.get(DIR_VARIABLE)
    if not directory:
        raise click.UsageError(
            f"name the engine's directory: armin --dir DIR keys ..., or set {DIR_VARIABLE}"
        )
    return Keyring(Path(directory) / KEYS_DIRECTORY)
