"""The Python clients as speakers of the vectors: a command becomes a call, a result becomes a reply."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import armin
from armin import results
from armin.cli import records
from armin.conformance.playing import Said
from armin.conformance.values import Packed, Pairs
from armin_broker import protocol

# The client asks on by itself until a comparison or backup is done, and makes pipelines of what waits.
UNSPOKEN = {"verify", "backup", "pipeline"}


class Speaker:
    """A client of either kind. `call` does what a method gives and waits for it."""

    def __init__(self, client: Any, call: Callable[[Callable[[], Any]], Any]) -> None:
        self.client = client
        self._call = call
        self.spoken: set[str] = set()  # ops that were asked through the client

    def ask(self, command: dict[str, Any]) -> Said | None:
        """What the client makes of a command, None where it has no way to send it."""
        fields = {name: value for name, value in command.items() if name != "op"}
        op = command.get("op")
        if not isinstance(op, str) or op not in protocol.OPS or op in UNSPOKEN:
            return None
        if _holds_odd(fields) or _is_taken_otherwise(fields):
            return None
        method = getattr(self.client, op)
        takes = inspect.signature(method).parameters
        if not takes.keys() >= fields.keys() or not fields.keys() >= set(protocol.OPS[op].required):
            return None
        try:
            result = self._call(lambda: method(**fields))
        except armin.ArminError as error:
            return _said_error(error)
        except (TypeError, ValueError):
            return None  # Python's own way to refuse a value of another type
        self.spoken.add(op)
        return _said(op, result)


def _holds_odd(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_odd, value.values()))
    if isinstance(value, list):
        return any(map(_holds_odd, value[:100]))
    return isinstance(value, Packed | Pairs)


def _is_taken_otherwise(fields: dict[str, Any]) -> bool:
    """Whether Python takes a value for another one: any iterable of messages, pairs for a map."""
    return not isinstance(fields.get("messages", []), list) or isinstance(fields.get("meta"), list)


# --- results as replies ---------------------------------------------------------------------------


def _said_error(error: armin.ArminError) -> Said:
    names = ("code", "message", "field", "limit", "reason", "retry", "key", "sent")
    fields = {name: getattr(error, name, None) for name in names}
    given = {name: value for name, value in fields.items() if value is not None} | {"code": str(error.code)}
    reply = {"ok": False, "error": {**given, "kind": type(error).__name__, "position": error.position}}
    if error.position is None:
        return Said(reply, frozenset({"position"}))  # the client refused it without asking
    return Said({**reply, "position": error.position})


def _said(op: str, result: Any) -> Said:
    fields = _FIELDS.get(op, _flat)(result)
    if fields.get("duplicate") is False:
        del fields["duplicate"]
    hidden = frozenset() if "position" in fields else frozenset({"position"})
    return Said({"ok": True, **fields}, hidden)


def _flat(result: Any) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}


def _session(session: results.Session) -> dict[str, Any]:
    record = records.session_record(session)
    return {"session": record, "position": session.position, "duplicate": session.duplicate}


def _messages(page: results.MessagePage | results.SnapshotPage) -> dict[str, Any]:
    return {**_flat(page), "messages": [records.message_record(message) for message in page.messages]}


def _lease(lease: results.Lease) -> dict[str, Any]:
    return {**_flat(lease), "event": records.event_record(lease.event)}


def _outcomes(outcomes: results.Outcomes) -> dict[str, Any]:
    return {"outcomes": [_outcome(outcome) for outcome in outcomes.outcomes], "position": outcomes.position}


def _outcome(outcome: results.Outcome) -> dict[str, Any]:
    fields = {name: value for name, value in _flat(outcome).items() if value not in (None, False)}
    if outcome.error is not None:
        error = outcome.error
        fields["error"] = {"code": str(error.code), "message": error.message, "retry": error.retry}
    return {**fields, "ok": outcome.ok}


def _hello(hello: results.Hello) -> dict[str, Any]:
    return {**_flat(hello), "features": list(hello.features)}


_FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "hello": _hello,
    "ping": lambda position: {"position": position},
    "sync": lambda position: {"position": position},
    "stats": dict,
    "health": lambda health: {**_flat(health), "reasons": list(health.reasons)},
    "create_session": _session,
    "session": _session,
    "sessions": lambda page: {**_flat(page), "sessions": list(map(records.session_record, page.sessions))},
    "tails": lambda tails: {
        "tails": [list(_flat(tail).values()) for tail in tails.tails],
        "position": tails.position,
    },
    "read": _messages,
    "snapshot": _messages,
    "delta": _messages,
    "log": lambda page: {**_flat(page), "events": list(map(records.event_record, page.events))},
    "create_group": lambda group: {"group": records.group_record(group), "duplicate": group.duplicate},
    "groups": lambda groups: {"groups": list(map(records.group_record, groups))},
    "lease": lambda leases: {"leases": list(map(_lease, leases.leases)), "position": leases.position},
    "ack": _outcomes,
    "nack": _outcomes,
    "extend": _outcomes,
    "dead_letters": lambda page: {
        **_flat(page),
        "dead_letters": list(map(records.dead_letter_record, page.dead_letters)),
    },
    "requeue": lambda count: {"requeued": count},
    "discard": lambda count: {"discarded": count},
    "drop_group": lambda dropped: {"dropped": dropped},
}


# --- the two clients ------------------------------------------------------------------------------


class Blocking(Speaker):
    """`armin.connect`."""

    def __init__(self, directory: Path, timeout: float) -> None:
        super().__init__(armin.connect(directory, timeout=timeout), lambda make: make())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()


class Asynchronous(Speaker):
    """`armin.connect_async`, in a loop that runs while it is asked something."""

    def __init__(self, directory: Path, timeout: float) -> None:
        self._runner = asyncio.Runner()
        self._directory = directory
        self._timeout = timeout

    def __enter__(self) -> Self:
        async def connect() -> armin.AsyncClient:
            return armin.connect_async(self._directory, timeout=self._timeout)

        super().__init__(self._runner.run(connect()), self._awaited)
        return self

    def _awaited(self, make: Callable[[], Any]) -> Any:
        async def awaited() -> Any:
            return await make()

        return self._runner.run(awaited())

    def __exit__(self, *exc_info: object) -> None:
        self._awaited(self.client.close)
        self._runner.close()
