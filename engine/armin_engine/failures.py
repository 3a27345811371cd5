"""Failed commits in the log: a full disk fails a thousand a second, and their lines must not fill it too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0  # between two lines about failed commits


class FailureLog:
    """Tells of the first failure at once, of those since at most once a second, and of their end.

    clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_line = clock()  # no line before that
        self._untold = 0
        self._told = False  # the last line says that commits fail

    def failed(self, facts: int, error: Exception) -> None:
        """A commit of so many facts failed."""
        now = self._clock()
        if now < self._next_line:
            self._untold += 1
            return
        more = f" ({self._untold} more have failed since the last such line)" if self._untold else ""
        logger.error("a commit of %d facts failed: %s%s", facts, error, more)
        self._next_line = now + INTERVAL_S
        self._untold = 0
        self._told = True

    def succeeded(self) -> None:
        """A commit succeeded."""
        if self._told:
            logger.warning("commits succeed again; %d more had failed", self._untold)
            self._untold = 0
            self._told = False
