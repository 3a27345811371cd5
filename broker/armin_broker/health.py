"""Whether the engine can do its work: what `health` answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from armin_engine import Armin


class State(StrEnum):
    """How it is; a client that finds nobody adds `recovering` and `absent`."""

    SERVING = "serving"
    DEGRADED = "degraded"  # it works, but something needs a person
    REFUSING_WRITES = "refusing_writes"  # until it is started again


class Reason(StrEnum):
    """Why it is not ready, beside the reasons of `storage_failed`."""

    COMMITS_FAILING = "commits_failing"
    MEMORY_OVER_BUDGET = "memory_over_budget"


def health(armin: Armin, *, is_failing: bool) -> dict[str, Any]:
    """The reply's fields; `is_failing` says whether commits fail at the moment."""
    refused = armin.writes_refused
    reasons = [] if refused is None else [refused]
    if is_failing and refused is None:
        reasons.append(Reason.COMMITS_FAILING.value)
    if armin.history_bytes > armin.memory_budget:
        reasons.append(Reason.MEMORY_OVER_BUDGET.value)
    state = State.SERVING if not reasons else State.DEGRADED if refused is None else State.REFUSING_WRITES
    return {"live": True, "ready": not reasons, "state": state.value, "reasons": reasons}
