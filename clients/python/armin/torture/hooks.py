"""Where the launcher reaches into the engine: kill points and sabotage, all patches in this one file.

Each one demands that what it patches exists, so that a change of the engine fails here, not in silence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from armin.torture.disk import TorturedDisk
from armin.torture.fate import Fate
from armin.torture.orders import KillPoint, Sabotage
from armin.torture.trace import Which
from armin_broker.command_socket import CommandSocket
from armin_broker.loop import Loop
from armin_engine import durable
from armin_engine import store as store_module
from armin_engine.armin import Armin
from armin_engine.facts import (
    Event,
    Fact,
    Kind,
    SessionInfo,
    pack_closed_event,
    pack_created_event,
    pack_events_of,
    pack_message,
    pack_message_event,
)
from armin_engine.live import LiveHub
from armin_engine.store import SQLiteStore

Function = Callable[..., Any]

CHECKPOINT_PAGES: Final = 1000


class HookLost(Exception):
    """The engine has no such part any more: the torture must be adapted to it."""


def _wrap(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Replace `owner.name` by what `make` makes of it. Raises HookLost."""
    original = vars(owner).get(name)
    if not callable(original):
        raise HookLost(f"{owner!r} has no function {name!r}")
    setattr(owner, name, functools.wraps(original)(make(original)))


def checkpoint_often() -> None:
    """Checkpoints four times as often as the engine would have them, so that much can happen to them."""
    if not isinstance(vars(store_module).get("CHECKPOINT_PAGES"), int):
        raise HookLost("the store has no CHECKPOINT_PAGES")
    store_module.CHECKPOINT_PAGES = CHECKPOINT_PAGES  # type: ignore[misc]


def _around(owner: Any, name: str, before: Function | None = None, after: Function | None = None) -> None:
    """Call `before` and `after` with the arguments of `owner.name`, around it."""

    def make(original: Function) -> Function:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if before is not None:
                before(*arguments, **named)
            result = original(*arguments, **named)
            if after is not None:
                after(*arguments, **named)
            return result

        return wrapped

    _wrap(owner, name, make)


# --- kill points ------------------------------------------------------------------------------------


def install_kill_points(fate: Fate) -> None:
    """Let `fate` see every passing of every point outside the files. Raises HookLost."""

    def committed(_store: SQLiteStore, facts: Sequence[Fact], _keys: object = (), rows: object = ()) -> None:
        if rows:
            fate.at(KillPoint.LEASED)
        if facts:
            fate.at(KillPoint.COMMITTED)

    _around(store_module, "insert", after=lambda *_: fate.at(KillPoint.BEFORE_COMMIT))
    _around(SQLiteStore, "commit", after=committed)
    _around(LiveHub, "publish", after=lambda *_: fate.at(KillPoint.PUBLISHED))
    _wrap(Armin, "_announce", lambda original: _announcing(original, fate))
    _wrap(SQLiteStore, "recovered", lambda original: _recovering(original, fate))
    _install_replying(fate)


def _announcing(original: Function, fate: Fate) -> Function:
    def announce(armin: Armin) -> None:
        something = bool(armin._unannounced)
        if something:
            fate.at(KillPoint.DERIVED)
        original(armin)
        if something:
            fate.at(KillPoint.EMITTED)

    return announce


def _recovering(original: Function, fate: Fate) -> Function:
    def recovered(store: SQLiteStore) -> Iterator[Any]:
        fate.at(KillPoint.RECOVERING)
        for item in original(store):
            yield item
            fate.at(KillPoint.RECOVERING)

    return recovered


def _install_replying(fate: Fate) -> None:
    """A write's reply is rendered and sent at once; whatever else is sent is no passing."""
    rendered = False

    def render(*_: object) -> None:
        nonlocal rendered
        rendered = True

    def sent(*_: object) -> None:
        nonlocal rendered
        if rendered:
            rendered = False
            fate.at(KillPoint.REPLYING)

    _around(Loop, "_render", after=render)
    _around(CommandSocket, "send", after=sent)


# --- writes past SQLite -------------------------------------------------------------------------------


def watch_rewrites(disk: TorturedDisk, files: dict[str, Which]) -> None:
    """Show the disk where the engine itself writes to its files. Raises HookLost."""

    def make(original: Function) -> Function:
        return lambda path: disk.rewrite(files[str(path)], lambda: original(path))

    _wrap(durable, "rewrite", make)


# --- sabotage -----------------------------------------------------------------------------------------


def synchronous_normal() -> None:
    """Commits no longer wait for the disk."""

    def relax(store: SQLiteStore) -> None:
        writer = store._writer
        assert writer is not None, "it has just begun to write"
        writer.execute("PRAGMA synchronous = NORMAL")

    _around(SQLiteStore, "_start_writing", after=relax)


def emit_before_commit() -> None:
    """Publish and emit what is about to be committed, and not again afterwards."""
    engines: dict[int, Armin] = {}

    def remember(armin: Armin, _commands: object) -> None:
        engines[id(armin._store)] = armin

    def announce_early(store: SQLiteStore, facts: Sequence[Fact], *_: object) -> None:
        armin = engines[id(store)]
        events = [_event(fact) for fact in facts]
        if events:
            armin.live.publish(events)
        for event in events:
            armin._emit(event)

    _around(Armin, "_apply", before=remember)
    _around(SQLiteStore, "commit", before=announce_early)
    _around(Armin, "_announce", before=lambda armin: armin._unannounced.clear())


def _event(fact: Fact) -> Event:
    match fact.kind:
        case Kind.SESSION_CREATED:
            meta = None if fact.meta is None else fact.meta.packed
            info = SessionInfo(fact.session_id, fact.content or None, False, fact.created_at, 0, meta)
            return pack_created_event(fact.position, info)
        case Kind.MESSAGE_APPENDED:
            of_session = pack_events_of(fact.session_id)
            return pack_message_event(fact.position, fact.session_id, of_session, pack_message(fact))
        case Kind.SESSION_CLOSED:
            return pack_closed_event(fact.position, fact.session_id)


SABOTAGES: Final[dict[Sabotage, Callable[[], None]]] = {
    Sabotage.SYNCHRONOUS_NORMAL: synchronous_normal,
    Sabotage.EMIT_BEFORE_COMMIT: emit_before_commit,
}
