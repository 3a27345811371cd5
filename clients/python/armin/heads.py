"""The head of the digest chain: one line that, kept elsewhere, shows whether a file still holds its past."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from armin.errors import BadRequest

_HEAD: Final = re.compile(r"([0-9]{1,19}):([0-9a-f]{32})", re.ASCII)
_POSITION_MAX: Final = (1 << 63) - 1


class Head(NamedTuple):
    """The log up to `position` has this digest, in hex; both together are `POSITION:DIGEST`."""

    position: int
    digest: str

    def __str__(self) -> str:
        return f"{self.position}:{self.digest}"

    def difference(self, end: int, digest: str | None) -> str | None:
        """What is wrong with a log that ends at `end` and has `digest` at this position, if anything."""
        if digest is None:
            return f"the log ends at position {end}; what followed up to position {self.position} is cut off"
        if digest != self.digest:
            return (
                f"position {self.position} has the digest {digest}, not {self.digest}: the past was rewritten"
            )
        return None


def parse_head(text: str) -> Head:
    """A head as `verify` gives it.

    Raises:
        BadRequest: it is none.
    """
    match = _HEAD.fullmatch(text.strip().lower())
    if match is None or int(match[1]) > _POSITION_MAX:
        raise BadRequest(f"{text!r} is no POSITION:DIGEST, as armin verify --head prints it", field="expect")
    return Head(int(match[1]), match[2])
