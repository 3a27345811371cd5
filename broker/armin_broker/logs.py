"""The daemon's log: one event a line, for people or as JSON, on standard error.

Nothing that a peer, a file or an exception says can begin a line of its own or steer a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Final

LEVELS: Final = ("debug", "info", "warning", "error")

# C0, DEL, C1, the line and paragraph separators, what reverses the rest of a line, halves of surrogate pairs.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

logger = logging.getLogger(__name__)


def configure(level: str, *, as_json: bool) -> None:
    """Have this process log to standard error from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # A line that cannot be written, on a full disk say, is lost. Python would tell of it in many
    # lines, once there is room.
    logging.raiseExceptions = False
    threading.excepthook = _thread_failed


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """Values of an event that programs look for; for `extra` of a logging call."""
    return {"fields": values}


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    name = "?" if failed.thread is None else failed.thread.name
    value = failed.exc_value or failed.exc_type()
    logger.error("the thread %s failed", name, exc_info=(failed.exc_type, value, failed.exc_traceback))


class Lines(logging.Formatter):
    """`TIME LEVEL LOGGER: MESSAGE name=value ...`, an exception behind it in the same line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        parts = [f"{_time(record)} {record.levelname} {record.name}: {_message(record)}"]
        parts += [f"{name}={_shown(value)}" for name, value in _fields(record).items()]
        if (exception := self._exception(record)) is not None:
            parts.append(f"| {exception}")
        return _UNSAFE.sub(lambda found: _escaped(found[0]), " ".join(parts))

    def _exception(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else None


class JsonLines(Lines):
    """A JSON object: `time`, `level`, `logger`, `message`, the event's own fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        event = {**event, **_fields(record), **event}
        if (exception := self._exception(record)) is not None:
            event["exception"] = exception
        return json.dumps(event, default=str)  # in ASCII, so that what is unsafe is escaped


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format must not cost the event
        return f"{record.msg} {record.args!r}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = getattr(record, "fields", None)
    return found if isinstance(found, dict) else {}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if re.fullmatch(r"[^\s\"=]+", text) or not isinstance(value, str) else json.dumps(text)


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


_escaped("")  # loads the codec's module now: later there may be no descriptor left for it
