"""The memory budget: all history lives in RAM, so the engine knows what fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20
BUDGET_SHARE: Final = 0.75  # of the machine's or container's memory, unless told otherwise
WARN_SHARE: Final = 0.8  # of the budget

# What a fact costs beside its packed bytes, rounded up: for a message 20 (16 in the log, 4 for its end) in a
# long session, 30 with its share of a session of 100 (docs/performance.md), 50 more while it is not sealed;
# 400 for a session with one chunk, 520 with a name.
MESSAGE_OVERHEAD_BYTES: Final = 64
SESSION_OVERHEAD_BYTES: Final = 600

# History takes more memory than the file's pages in use where messages are small, and the less of it the
# worse rows fit pages: rows just over half a page leave the other half empty. Below this share of the
# file, recovery would be a waste of the user's time.
FILE_SHARE_MIN: Final = 0.5

_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def default_budget() -> int:
    """Bytes of history that this machine, or its container, has room for."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = _CGROUP_LIMIT.read_text("ascii").strip()
    except OSError:
        text = "max"
    if text.isdigit():
        total = min(total, int(text))
    return int(total * BUDGET_SHARE)
