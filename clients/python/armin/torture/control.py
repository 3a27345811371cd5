"""How the campaign leads its processes: a line on their standard input; its end is theirs, too."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any


class Control:
    """In a process of the campaign: waits for orders, and dies with the campaign, however that died."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.order: dict[str, Any] = {}
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self.order = json.loads(line)
            self.finish.set()
        os._exit(3)
