"""An import from beginning to end: a file on one side, an engine on the other."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from armin.importers.byte_source import ByteSource
from armin.importers.conversation import Conversation
from armin.importers.detect import detect
from armin.importers.lanes import Lanes
from armin.importers.outcome import PROBLEMS_KEPT_MAX, ImportProgress, ImportResult, Problem, ProblemKind
from armin.importers.reading import read_conversations
from armin.importers.transfer import Delivery, ImportClient, State, Transfer


def import_file(
    client: ImportClient,
    source: str | os.PathLike[str] | IO[bytes],
    *,
    format: str | None = None,
    file: str | None = None,
    lanes: Sequence[ImportClient] = (),
    progress: Callable[[ImportProgress], object] | None = None,
) -> ImportResult:
    """Import every conversation of a file, each as one session. Importing it again adds nothing.

    A file of any size takes no more memory than its largest conversations. What cannot be imported is
    left out and told in the result; the rest is imported.

    Args:
        client: of the engine that takes them.
        source: a path, or a binary stream, which is read forward only.
        format: one of FORMATS; recognised from the content if None.
        file: a name to note as meta.source.file; a path's last part unless given.
        lanes: further clients of the same engine. `client` then creates the sessions, in the file's order,
            while these bring the messages in, so that waits for the disk overlap.
        progress: called with an ImportProgress, from this thread, after every conversation or so.

    Raises:
        UnknownFormat: the content shows no known format, or `format` is none.
        OSError: the file cannot be read.
        ArminError: the engine failed or did not answer. What was imported so far stays, and importing
            again goes on from there.
    """
    with _opened(source) as (stream, size, name):
        bytes_source = ByteSource(stream)
        layout = detect(bytes_source, format)
        run = _Run(layout.format, bytes_source, size, progress)
        conversations = read_conversations(bytes_source, layout, file if file is not None else name)
        if lanes:
            run.in_lanes(client, lanes, conversations)
        else:
            run.in_order(client, conversations)
        return run.result()


class _Opened(NamedTuple):
    stream: IO[bytes]
    size: int | None
    name: str | None


@contextmanager
def _opened(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[_Opened]:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with path.open("rb") as stream:
            yield _Opened(stream, _size(stream), path.name)
    else:
        yield _Opened(source, _size(source), None)


def _size(stream: IO[bytes]) -> int | None:
    """Bytes left in a regular file, None for anything else."""
    try:
        status = os.fstat(stream.fileno())
        return status.st_size - stream.tell() if stat.S_ISREG(status.st_mode) else None
    except (OSError, AttributeError):  # io.UnsupportedOperation is an OSError
        return None


class _Run:
    """What has happened so far. All its methods are called by one thread."""

    def __init__(
        self,
        format_name: str,
        source: ByteSource,
        size: int | None,
        progress: Callable[[ImportProgress], object] | None,
    ) -> None:
        self._format = format_name
        self._source = source
        self._size = size
        self._progress = progress
        self._states: Counter[State] = Counter()
        self._conversations = 0
        self._added = 0
        self._present = 0
        self._problems: list[Problem] = []
        self._problem_counts: Counter[ProblemKind] = Counter()

    def in_order(self, client: ImportClient, conversations: Iterator[Conversation | Problem]) -> None:
        """One conversation after the other."""
        for item in conversations:
            if isinstance(item, Problem):
                self._note_problem(item)
            else:
                self._deliver(client, item)

    def in_lanes(
        self,
        client: ImportClient,
        others: Sequence[ImportClient],
        conversations: Iterator[Conversation | Problem],
    ) -> None:
        """Sessions one after the other, the messages of several of them at once."""
        with Lanes(others) as lanes:
            for item in conversations:
                if isinstance(item, Problem):
                    self._note_problem(item)
                elif isinstance(item.messages, list):
                    self._hand_over(client, item, lanes)
                else:  # its messages are still in the file: nothing behind it can be read before they are
                    self._note_all(lanes.drain())
                    self._deliver(client, item)
            self._note_all(lanes.drain())

    def _deliver(self, client: ImportClient, conversation: Conversation) -> None:
        transfer = Transfer(conversation, self._note_batch)
        self._note(transfer.begin(client) or transfer.complete(client))

    def _hand_over(self, client: ImportClient, conversation: Conversation, lanes: Lanes) -> None:
        transfer = Transfer(conversation)
        failed = transfer.begin(client)
        if failed is None:
            self._note_all(lanes.put(conversation.name, transfer))
        else:
            self._note(failed)

    def _note_all(self, deliveries: Iterator[Delivery]) -> None:
        for delivery in deliveries:
            self._note_batch(delivery.added, delivery.present)
            self._note(delivery)

    def _note_batch(self, added: int, present: int) -> None:
        self._added += added
        self._present += present
        self._tell()

    def _note(self, delivery: Delivery) -> None:
        self._conversations += 1
        self._states[delivery.state] += 1
        if delivery.problem is not None:
            self._note_problem(delivery.problem)
        self._tell()

    def _note_problem(self, problem: Problem) -> None:
        self._problem_counts[problem.kind] += 1
        if len(self._problems) < PROBLEMS_KEPT_MAX:
            self._problems.append(problem)

    def _tell(self) -> None:
        if self._progress is not None:
            done = self._added + self._present
            self._progress(ImportProgress(self._source.offset, self._size, self._conversations, done))

    def result(self) -> ImportResult:
        return ImportResult(
            format=self._format,
            conversations=self._conversations,
            created=self._states[State.CREATED],
            continued=self._states[State.CONTINUED],
            present=self._states[State.PRESENT],
            messages_added=self._added,
            messages_present=self._present,
            bytes_read=self._source.offset,
            problems=tuple(self._problems),
            problem_counts=dict(self._problem_counts),
        )
