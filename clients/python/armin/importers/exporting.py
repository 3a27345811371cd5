"""An export from beginning to end: sessions out of an engine, as lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import IO, Any, Final, Protocol

from armin.importers import export_format, openai
from armin.importers.fitting import readable_json
from armin.importers.openai_lines import openai_line
from armin.importers.outcome import ExportProgress, ExportResult, UnknownFormat
from armin.results import Hello, Message, Session, SessionPage

EXPORT_FORMATS: Final = (export_format.ARMIN, openai.OPENAI)

_SESSIONS_PER_PAGE: Final = 1_000

# Line ends of Unicode that JSON leaves as they are, but that some readers of lines split at.
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


class ExportClient(Protocol):
    """What an export needs of armin.Client; errors are those of armin.errors."""

    def hello(self) -> Hello:
        """Who the engine is."""

    def session(self, session_id: int | None = None, *, name: str | None = None) -> Session:
        """Find a session."""

    def sessions(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        closed: bool | None = None,
    ) -> SessionPage:
        """Read a page of sessions."""

    def messages(self, session_id: int, after: int = 0) -> Iterator[Message]:
        """Read a session page by page."""


def export(
    client: ExportClient,
    out: IO[bytes],
    *,
    format: str = export_format.ARMIN,
    session_ids: Iterable[int] | None = None,
    progress: Callable[[ExportProgress], object] | None = None,
) -> ExportResult:
    """Write sessions as JSON Lines in UTF-8, in the order of their ids, holding a page of them at a time.

    `armin` is the whole of every session, to be imported into this or another engine: export_format says
    how, and what becomes of ids and times. `openai` is one conversation a line: for an OpenAI import, JSON
    equal to the original; for any other session, role, content, and what OpenAI knows of the meta.

    Each session is written as it was when it was listed: all messages up to then, none after. Sessions
    that are created meanwhile may be among them.

    Args:
        client: of the engine.
        out: a binary stream. It is neither flushed nor closed.
        format: one of EXPORT_FORMATS.
        session_ids: those to write; None for all.
        progress: called with an ExportProgress after every session.

    Raises:
        UnknownFormat: `format` is none of EXPORT_FORMATS.
        SessionNotFound: one of `session_ids` does not exist; told before anything is written.
        OSError: `out` cannot be written.
        ArminError: the engine failed or did not answer.
    """
    if format not in EXPORT_FORMATS:
        raise UnknownFormat(f"there is no export format {format!r}; known are {', '.join(EXPORT_FORMATS)}")
    hello = client.hello()
    listed = _all_sessions(client) if session_ids is None else _chosen_sessions(client, session_ids)
    writer = _Writer(client, out, progress)
    if format == export_format.ARMIN:
        writer.write_export(hello, listed)
    else:
        writer.write_openai(listed)
    return ExportResult(format, writer.sessions, writer.messages, writer.size, hello.position)


def _all_sessions(client: ExportClient) -> Iterator[Session]:
    after, more = 0, True
    while more:
        page = client.sessions(after=after, limit=_SESSIONS_PER_PAGE)
        yield from page.sessions
        more = page.more and bool(page.sessions)
        after = page.sessions[-1].id if page.sessions else after


def _chosen_sessions(client: ExportClient, session_ids: Iterable[int]) -> Iterator[Session]:
    return iter([client.session(session_id) for session_id in sorted(set(session_ids))])


class _Writer:
    """Counts what it has written."""

    def __init__(
        self, client: ExportClient, out: IO[bytes], progress: Callable[[ExportProgress], object] | None
    ) -> None:
        self._client = client
        self._out = out
        self._progress = progress
        self.sessions = 0
        self.messages = 0
        self.size = 0

    def write_export(self, hello: Hello, sessions: Iterator[Session]) -> None:
        self._write_line(export_format.head_line(hello.database, hello.epoch, hello.position))
        for session in sessions:
            self._write_line(export_format.session_line(session))
            for message in self._messages(session):
                self._write_line(export_format.message_line(message))
            self._tell(session)
        self._write_line(export_format.end_line(self.sessions, self.messages))

    def write_openai(self, sessions: Iterator[Session]) -> None:
        for session in sessions:
            for text in openai_line(session, self._messages(session)):
                self._write(text)
            self._write("\n")
            self._tell(session)

    def _messages(self, session: Session) -> Iterator[Message]:
        """The messages that the session had when it was listed."""
        if session.seq:
            for message in islice(self._client.messages(session.id), session.seq):
                self.messages += 1
                yield message

    def _write_line(self, value: dict[str, Any]) -> None:
        self._write(readable_json(value) + "\n")

    def _write(self, text: str) -> None:
        data = text.translate(_LINE_ENDS).encode()
        self._out.write(data)
        self.size += len(data)

    def _tell(self, session: Session) -> None:
        self.sessions += 1
        if self._progress is not None:
            self._progress(ExportProgress(self.sessions, self.messages, self.size, session.id))
