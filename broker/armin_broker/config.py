"""What the daemon is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from armin_broker import protocol


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one daemon; every one has a reason to be what it is unless told otherwise."""

    directory: Path
    ipc_directory: Path | None = None  # where the sockets go; default `directory`
    tcp_host: str | None = None
    tcp_port: int = 0  # commands; live and effects on the two ports after it. 0: three free ports
    insecure: bool = False  # strangers may come in: by tcp without keys, by ipc through an open directory
    connections_max: int = protocol.CONNECTIONS_MAX  # by ipc, and as many by tcp
    metrics_host: str | None = None  # figures for Prometheus, over HTTP
    metrics_port: int = 0
    memory_budget: int | None = None  # bytes of history; default three quarters of the machine's memory

    group_commands_max: int = 1024  # at so many, those of pipelines counted, a group is committed
    group_bytes_max: int = 4 << 20
    snapshot_messages: int = 4096  # the delta is folded into the snapshot at this many messages
    snapshot_bytes: int = 4 << 20  # or at this many bytes
    effects_backlog: int = protocol.EFFECTS_BACKLOG_MAX  # effects kept while no worker takes them
    effects_backlog_bytes: int = protocol.EFFECTS_BACKLOG_BYTES_MAX

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.directory / protocol.DATABASE_FILE

    @property
    def keys(self) -> Path:
        """The directory of the keys."""
        return self.directory / protocol.KEYS_DIRECTORY

    @property
    def backups(self) -> Path:
        """Where the op `backup` puts them; made when it is first asked for."""
        return self.directory / protocol.BACKUPS_DIRECTORY

    @property
    def sockets(self) -> Path:
        """The directory of the three ipc sockets."""
        return self.directory if self.ipc_directory is None else self.ipc_directory
