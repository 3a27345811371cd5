"""The bundled conversations: what data/README.md says of them is so."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from armin.importers.byte_source import ByteSource
from armin.importers.conversation import Conversation
from armin.importers.detect import detect
from armin.importers.outcome import Problem
from armin.importers.reading import read_conversations

DATA = Path(__file__).parents[2] / "data"
BUNDLED = DATA / "chitchat-5000.jsonl"


@pytest.fixture(scope="module")
def conversations() -> list[Conversation | Problem]:
    with BUNDLED.open("rb") as file:
        source = ByteSource(file)
        return list(read_conversations(source, detect(source)))


def test_bundled_file_holds_as_many_messages_as_its_readme_says(
    conversations: list[Conversation | Problem],
) -> None:
    counts = [len(list(found.messages)) for found in conversations if isinstance(found, Conversation)]
    assert len(counts) == len(conversations)
    said = re.search(r"([\d,]+) real conversations with ([\d,]+) messages", (DATA / "README.md").read_text())
    assert said is not None
    assert [len(counts), sum(counts)] == [int(number.replace(",", "")) for number in said.groups()]
    assert sum(counts) >= 5_000


def test_bundled_conversations_keep_their_ids_and_times(conversations: list[Conversation | Problem]) -> None:
    ids = {
        found.meta["source"]["id"]
        for found in conversations
        if isinstance(found, Conversation) and found.meta is not None and "created_at" in found.meta["source"]
    }
    assert len(ids) == len(conversations)


def test_bundled_file_is_what_the_script_makes_of_the_data_set() -> None:
    specification = importlib.util.find_spec("chitchat_dataset")
    assert specification is not None, "the dev extra installs it"
    assert specification.origin is not None
    dataset = Path(specification.origin).with_name("dataset.json")
    made = subprocess.run(
        [sys.executable, DATA / "convert_chitchat.py", dataset], capture_output=True, timeout=100, check=True
    )
    assert made.stdout == BUNDLED.read_bytes()


def test_bundled_text_tells_nobodys_address_or_account() -> None:
    for line in BUNDLED.read_text("utf-8").splitlines():
        for message in json.loads(line)["messages"]:
            assert not re.search(r"@|https?:|www\.|\d{5}", message["content"]), message


def test_licence_of_the_bundled_file_stands_beside_it() -> None:
    assert "MIT License" in (DATA / "LICENSE.chitchat-dataset").read_text("utf-8")
