"""The drill: a backup under load, the machine's worst day, a restore, and everybody goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import armin
from armin import Client, CursorInvalid, Event
from command_line import CommandLine, parsed
from harness import Engine, wait_until

PATIENCE_S = 90.0  # of clients that outlive the restore


class Writer:
    """Appends messages that say their number, one after the other, whatever happens to the engine."""

    def __init__(self, directory: Path, session_id: int) -> None:
        self.acknowledged: list[tuple[int, str]] = []  # position and content, as they were answered
        self._directory = directory
        self._session_id = session_id
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        with armin.connect(self._directory, timeout=PATIENCE_S) as client:
            number = 0
            while not self._end.is_set():
                number += 1
                content = f"message {number}"
                appended = client.append(self._session_id, "user", content)
                self.acknowledged.append((appended.at, content))

    @property
    def contents(self) -> list[str]:
        return [content for _, content in self.acknowledged]

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join()

    def wait_for(self, more: int) -> None:
        wanted = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= wanted)


class Watcher:
    """Follows everything until it is told that this has ended."""

    def __init__(self, directory: Path) -> None:
        self.seen: list[Event] = []
        self.error: armin.ArminError | None = None
        self._directory = directory
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self) -> None:
        with armin.connect(self._directory, timeout=PATIENCE_S) as client:
            try:
                for event in client.follow_all():
                    self.seen.append(event)
            except armin.ArminError as error:
                self.error = error


def destroy(directory: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (directory / f"armin.db{suffix}").unlink(missing_ok=True)


def messages(client: Client, session_id: int) -> list[str]:
    return [message.content for message in client.messages(session_id)]


def test_the_drill(engine: Engine, short_dir: Path) -> None:
    command, backups = CommandLine(engine.directory), short_dir / "backups"
    backups.mkdir()
    with armin.connect(engine.directory) as client:
        session = client.create_session("talk").id
        client.create_group("g", start="begin")
        before = client.hello()
    writer, watcher = Writer(engine.directory, session), Watcher(engine.directory)
    with writer.writing():
        writer.wait_for(50)
        with armin.connect(engine.directory) as client:
            done = client.lease("g", max=20)
            client.ack("g", done.leases)
        sure = len(writer.acknowledged)
        [made] = command.json("backup", str(backups))
        assert made["position"] >= writer.acknowledged[sure - 1][0]

        writer.wait_for(50)  # and this is lost
        with armin.connect(engine.directory) as client:
            (late,) = client.lease("g", max=1).leases
            cursor = client.ping()
        wait_until(lambda: bool(watcher.seen) and watcher.seen[-1].position > made["position"])
        engine.kill()
        answered = len(writer.acknowledged)
        destroy(engine.directory)
        command.ok("restore", made["path"], str(engine.directory))
        engine.start()

        writer.wait_for(answered + 100)  # by now the cursors of the lost future are not ahead any more
    lost = set(writer.contents[sure : answered + 1])  # the last of them perhaps on its way to us at the kill

    with armin.connect(engine.directory) as client:
        now = client.hello()
        assert (now.database, now.epoch == before.epoch) == (before.database, False)
        assert client.verify().equal
        there = messages(client, session)
        assert len(set(there)) == len(there)
        assert set(writer.contents) - set(there) <= lost
        assert there[:sure] == writer.contents[:sure]
        assert set(writer.contents[answered + 1 :]) <= set(there)

        # Followers are told, are shown nothing of the new life before, and begin anew.
        watcher.thread.join(PATIENCE_S)
        assert isinstance(watcher.error, CursorInvalid)
        after = set(writer.contents[answered + 1 :])
        assert not after & {event.message.content for event in watcher.seen if event.message is not None}
        assert now.position > cursor
        for cursor_taken in (
            lambda: next(client.follow_all(cursor, epoch=before.epoch)),
            lambda: next(client.follow(session, 1, epoch=before.epoch)),
            lambda: next(client.events(cursor, epoch=before.epoch)),
            lambda: client.log(after=cursor, epoch=before.epoch),
            lambda: client.read(session, after=1, epoch=before.epoch),
        ):
            with pytest.raises(CursorInvalid):
                cursor_taken()
        anew = client.follow_all(0, epoch=now.epoch)
        assert [next(anew).position for _ in range(now.position)] == list(range(1, now.position + 1))
        anew.close()

        # The group goes on from where it stood; a lease of the lost future is none.
        assert late.position <= now.position
        assert [outcome.ok for outcome in client.ack("g", [late]).outcomes] == [False]
        handled = []
        while leases := client.lease("g", max=1000).leases:
            handled += [lease.position for lease in leases]
            assert all(outcome.ok for outcome in client.ack("g", leases).outcomes)
        assert handled == list(range(21, now.position + 1))

        assert client.backup().position == now.position
    [again] = parsed(command.run("backup", str(backups), "--keep", "1", "--json").out)
    assert [path.name for path in backups.iterdir()] == [Path(again["path"]).name]
    assert command.ok("verify", again["path"]).startswith("the file and its digests agree")


def test_a_pipeline_outlives_a_restore_that_lost_what_it_was_told(engine: Engine, short_dir: Path) -> None:
    """The key that comes after a lost write is not asked for: the answered one is behind it."""
    command, copy = CommandLine(engine.directory), str(short_dir / "b.db")
    with armin.connect(engine.directory, timeout=PATIENCE_S) as client, client.pipeline() as pipe:
        session = client.create_session().id
        assert pipe.append(session, "user", "kept").result().seq == 1
        command.ok("backup", copy)
        assert pipe.append(session, "user", "lost").result().seq == 2
        engine.kill()
        unanswered = [pipe.append(session, "user", f"unanswered {number}") for number in range(50)]
        destroy(engine.directory)
        command.ok("restore", copy, str(engine.directory))
        engine.start()
        assert [append.result().seq for append in unanswered] == list(range(2, 52))
        assert messages(client, session) == ["kept", *(f"unanswered {number}" for number in range(50))]


def test_what_was_written_to_a_session_of_the_lost_future_is_refused(engine: Engine, short_dir: Path) -> None:
    command, copy = CommandLine(engine.directory), str(short_dir / "b.db")
    with armin.connect(engine.directory, timeout=PATIENCE_S) as client:
        client.create_session()
        command.ok("backup", copy)
        lost = client.create_session("lost").id
        engine.kill()
        command.ok("restore", copy, str(engine.directory), "--replace")
        engine.start()
        with pytest.raises(armin.SessionNotFound):
            client.append(lost, "user", "nobody is there")
        assert client.create_session("another").id == lost, "ids are given out again"


def test_pages_of_two_histories_are_never_put_together(engine: Engine, short_dir: Path) -> None:
    """What reads page by page notices a restore between two pages, though nobody gave it an epoch."""
    command, copy = CommandLine(engine.directory), str(short_dir / "b.db")
    texts = [armin.NewMessage("user", f"message {number}") for number in range(2500)]

    async def events_over_a_restore() -> None:
        async with armin.connect_async(engine.directory, timeout=PATIENCE_S) as client:
            read = client.events()
            assert (await anext(read)).position == 1
            go_back()
            with pytest.raises(CursorInvalid):
                async for _ in read:
                    pass

    def go_back() -> None:
        engine.kill()
        command.ok("restore", copy, str(engine.directory), "--replace")
        engine.start()
        with armin.connect(engine.directory, timeout=PATIENCE_S) as another:
            another.append_many(1, texts)

    with armin.connect(engine.directory, timeout=PATIENCE_S) as client:
        session = client.create_session().id
        client.append(session, "user", "kept")
        command.ok("backup", copy)
        client.append_many(session, texts)
        read = client.messages(session)
        assert next(read).content == "kept"
        go_back()
        with pytest.raises(CursorInvalid):
            list(read)
    asyncio.run(events_over_a_restore())
