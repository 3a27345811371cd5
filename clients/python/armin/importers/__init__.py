"""Conversations in from other tools, and out again.

    import armin
    from armin.importers import export, import_file

    with armin.connect("DIR") as client:
        result = import_file(client, "conversations.jsonl")
        print(result.outcome, result.messages_added)
        with open("copy.jsonl", "wb") as out:
            export(client, out, format="openai")

Formats are recognised by their content: OpenAI chat JSON Lines, ShareGPT JSON, Armin's own export, and
the chitchat-dataset. Importing the same file again adds nothing.
"""

from __future__ import annotations

from armin.importers.detect import FORMATS
from armin.importers.exporting import EXPORT_FORMATS, ExportClient, export
from armin.importers.importing import import_file
from armin.importers.outcome import (
    ExportProgress,
    ExportResult,
    ImportProgress,
    ImportResult,
    Outcome,
    Problem,
    ProblemKind,
    UnknownFormat,
)
from armin.importers.transfer import ImportClient

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "ExportClient",
    "ExportProgress",
    "ExportResult",
    "ImportClient",
    "ImportProgress",
    "ImportResult",
    "Outcome",
    "Problem",
    "ProblemKind",
    "UnknownFormat",
    "export",
    "import_file",
]
