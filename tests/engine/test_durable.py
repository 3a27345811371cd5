"""Making durable what a killed process left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from armin_engine import durable


def test_a_rewritten_file_is_as_it_was(tmp_path: Path) -> None:
    content = os.urandom(durable.CHUNK_BYTES * 2 + 77)
    (tmp_path / "file").write_bytes(content)
    durable.rewrite(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


def test_every_byte_is_written_before_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, int]] = []
    pwrite = os.pwrite

    def note(descriptor: int, data: bytes, offset: int) -> int:
        done.append(("write", offset + len(data)))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", note)
    monkeypatch.setattr(os, "fsync", lambda _: done.append(("sync", 0)))
    size = durable.CHUNK_BYTES + 1
    (tmp_path / "file").write_bytes(bytes(size))
    durable.rewrite(tmp_path / "file")
    assert done == [("write", durable.CHUNK_BYTES), ("write", size), ("sync", 0)]


def test_a_file_that_is_not_there_is_fine(tmp_path: Path) -> None:
    durable.rewrite(tmp_path / "file")
    assert not (tmp_path / "file").exists()
