"""Convert a part of the chitchat-dataset into OpenAI chat JSON Lines.

    python data/convert_chitchat.py path/to/dataset.json > data/chitchat-5000.jsonl

Takes the conversations that chitchat-5000.ids names, whole; data/README.md says how they were chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

CHOSEN: Final = Path(__file__).with_name("chitchat-5000.ids")


def convert(conversation_id: str, found: dict[str, Any]) -> dict[str, Any]:
    """One conversation in OpenAI's shape; whoever speaks first is the user. Senders are left out."""
    utterances = [utterance for turn in found["messages"] for utterance in turn]
    first = utterances[0]["sender"]
    messages = [
        {
            "role": "user" if utterance["sender"] == first else "assistant",
            "content": utterance["text"],
            "created_at": utterance["timestamp"],
        }
        for utterance in utterances
    ]
    prompt = {"prompt": found["prompt"]} if "prompt" in found else {}
    return {"id": conversation_id, "created_at": found["start"], **prompt, "messages": messages}


def main() -> None:
    """Read the data set, write the chosen part to standard output."""
    parser = argparse.ArgumentParser(description="Convert a part of the chitchat-dataset.")
    parser.add_argument("dataset", type=Path, help="its dataset.json")
    dataset = json.loads(parser.parse_args().dataset.read_text("utf-8"))
    for conversation_id in CHOSEN.read_text("ascii").split():
        conversation = convert(conversation_id, dataset[conversation_id])
        sys.stdout.write(json.dumps(conversation, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
