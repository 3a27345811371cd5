"""The engine's figures under Prometheus's names. Needs the extra `metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from armin_broker.metrics import Figures

MS: Final = 1 / 1000
COMMIT_BOUNDS: Final = tuple(1 << power for power in range(7, 23))  # 128 microseconds to 4.2 s
WRITES_BOUNDS: Final = tuple(1 << power for power in range(15))  # 1 to 16,384; a pipeline ends a turn late


class _Of(NamedTuple):
    """A metric made of one field of `stats`."""

    metric: str
    field: str
    text: str
    factor: float = 1


GAUGES: Final = (
    _Of("armin_sessions", "sessions", "Sessions in the database."),
    _Of("armin_sessions_closed", "sessions_closed", "Closed ones of them."),
    _Of("armin_messages", "messages", "Messages in the database."),
    _Of("armin_position", "position", "The last committed position."),
    _Of("armin_history_bytes", "history_bytes", "History in memory."),
    _Of("armin_memory_budget_bytes", "memory_budget_bytes", "What history may take."),
    _Of("armin_wal_bytes", "wal_bytes", "Size of the write-ahead log."),
    _Of("armin_snapshot_position", "snapshot_position", "The snapshot's position."),
    _Of("armin_delta_sessions", "delta_sessions", "Sessions changed since the snapshot."),
    _Of("armin_delta_messages", "delta_messages", "Messages since the snapshot."),
    _Of("armin_delta_bytes", "delta_bytes", "Bytes of them."),
    _Of("armin_uptime_seconds", "uptime_ms", "Time since the start.", MS),
    _Of("armin_recovery_duration_seconds", "recovery_ms", "Opening the file at the start.", MS),
    _Of("armin_recovered_facts", "recovered_facts", "Facts in the file at the start."),
    _Of("armin_last_refresh_timestamp_seconds", "refreshed_at", "When the last snapshot was made.", MS),
    _Of("armin_last_refresh_duration_seconds", "refresh_ms", "How long that took.", MS),
    _Of("armin_effects_backlog", "effects_backlog", "Effects kept for whoever pulls."),
    _Of("armin_followers", "followers", "Connections to the live socket."),
    _Of("armin_worker_groups", "worker_groups", "Worker groups."),
    _Of("armin_polls", "polls", "Leases waited for."),
    _Of("armin_last_backup_success", "backup_ok", "Whether the last backup was good."),
    _Of("armin_last_backup_timestamp_seconds", "backup_finished_at", "End of the last good backup.", MS),
    _Of("armin_last_backup_duration_seconds", "backup_duration_ms", "How long it took.", MS),
    _Of("armin_last_backup_bytes", "backup_bytes", "Its size."),
    _Of("armin_last_backup_position", "backup_position", "The position up to which it goes."),
)
COUNTERS: Final = (
    _Of("armin_commands_total", "commands", "Commands taken; a pipeline is one."),
    _Of("armin_command_groups_total", "groups", "Groups of commands answered together."),
    _Of("armin_errors_total", "errors", "Errors answered."),
    _Of("armin_not_authorized_total", "not_authorized", "Of them: what the sender's key does not allow."),
    _Of("armin_commits_total", "commits", "Transactions made."),
    _Of("armin_commits_failed_total", "commits_failed", "Transactions failed."),
    _Of("armin_facts_total", "facts", "Facts committed."),
    _Of("armin_refreshes_total", "refreshes", "Snapshots made."),
    _Of("armin_replies_lost_total", "replies_lost", "Replies that their peers did not take."),
    _Of("armin_published_total", "published", "Events on the live socket."),
    _Of("armin_heals_total", "heals", "Reads of followers that had lost something."),
    _Of("armin_effects_sent_total", "effects_sent", "Effects pushed."),
    _Of("armin_effects_dropped_total", "effects_dropped", "Effects that nobody pulled in time."),
    _Of("armin_effects_failed_total", "effects_failed", "Effects that could not be pushed."),
    _Of("armin_connections_refused_total", "connections_refused", "Connections beyond the limit."),
    _Of("armin_handshakes_failed_total", "handshakes_failed", "Peers without a good key."),
    _Of("armin_leases_granted_total", "leases_granted", "Leases given to workers."),
    _Of("armin_leases_acked_total", "leases_acked", "Effects handled."),
    _Of("armin_leases_nacked_total", "leases_nacked", "Attempts that failed."),
    _Of("armin_leases_expired_total", "leases_expired", "Leases whose workers were too slow, or gone."),
    _Of("armin_leases_returned_total", "leases_returned", "Leases whose pollers were gone."),
    _Of("armin_effects_died_total", "effects_died", "Effects that became dead letters."),
    _Of("armin_backups_failed_total", "backups_failed", "Backups that failed."),
)
GROUP_GAUGES: Final = (
    _Of("armin_worker_group_behind", "behind", "Facts not looked at yet."),
    _Of("armin_worker_group_waiting", "waiting", "Effects without a worker."),
    _Of("armin_worker_group_leased", "leased", "Effects that are being handled."),
    _Of("armin_worker_group_dead", "dead", "Dead letters."),
    _Of("armin_worker_group_pollers", "pollers", "Workers with nothing to do."),
    _Of("armin_worker_group_halted", "halted", "1 where a dead letter has halted the group."),
)
# Fields of `stats` that are here in another form, or that Prometheus makes itself.
OTHERWISE: Final = frozenset(
    {
        *("pid", "writes_refused", "subscribers", "connections_ipc", "connections_tcp"),
        *("waiting", "leased", "dead"),
        *("commands_per_s", "facts_per_s", "commits_per_s"),
        *(f"{name}_{end}" for name in ("group_size", "commit_ms") for end in ("p50", "p99", "max")),
    }
)


def application(latest: Callable[[], Figures | None]) -> Any:
    """The WSGI application that shows the latest figures, and this process's."""
    registry = CollectorRegistry()
    registry.register(Figured(latest))
    ProcessCollector(registry=registry)
    return make_wsgi_app(registry)


class Figured(Collector):
    """Shows what the loop said last; while nothing was said yet, that the engine is not ready."""

    def __init__(
        self, latest: Callable[[], Figures | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._latest = latest
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        figures = self._latest()
        if figures is None:
            yield _gauge("armin_ready", "1 if the engine is ready, else 0.", 0)
            return
        stats = figures.stats
        names = ("version", "database", "epoch", "engine")
        info = {name: str(figures.hello[name]) for name in names}
        yield InfoMetricFamily("armin", "Who the engine is.", info)
        yield _gauge("armin_ready", "1 if the engine is ready, else 0.", figures.health["ready"])
        refused = stats["writes_refused"] is not None
        yield _gauge("armin_writes_refused", "1 if all writes are refused, else 0.", refused)
        age = self._clock() - figures.at
        yield _gauge("armin_figures_age_seconds", "Since the loop said this; over 3: it is held up.", age)
        yield _histogram(
            "armin_commit_duration_seconds",
            "A transaction until it is on disk.",
            *figures.commit_times,
            COMMIT_BOUNDS,
            1_000_000,
        )
        yield _histogram(
            "armin_commit_writes",
            "Writes asked for in one transaction.",
            *figures.group_sizes,
            WRITES_BOUNDS,
            1,
        )
        yield from _gauges(stats)
        yield from _counters(stats)
        yield _by_transport(stats)
        yield from _groups(figures.groups)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, float(value))


def _gauges(stats: Mapping[str, Any]) -> Iterator[Metric]:
    for each in GAUGES:
        if stats.get(each.field) is not None:
            yield _gauge(each.metric, each.text, stats[each.field] * each.factor)


def _counters(stats: Mapping[str, Any]) -> Iterator[Metric]:
    for each in COUNTERS:
        if each.field in stats:
            yield CounterMetricFamily(each.metric, each.text, stats[each.field])


def _by_transport(stats: Mapping[str, Any]) -> Metric:
    family = GaugeMetricFamily("armin_connections", "Connections to all sockets.", labels=["transport"])
    for transport in ("ipc", "tcp"):
        family.add_metric([transport], stats[f"connections_{transport}"])
    return family


def _groups(groups: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    families = [GaugeMetricFamily(each.metric, each.text, labels=["group"]) for each in GROUP_GAUGES]
    for group in groups:
        for each, family in zip(GROUP_GAUGES, families, strict=True):
            family.add_metric([group["group"]], float(group[each.field]))
    yield from families


def _histogram(
    name: str, text: str, counts: Mapping[int, int], total: int, bounds: Iterable[int], unit: int
) -> Metric:
    """`counts` by upper ends, `total` and `bounds` in so small parts that `unit` of them are one."""
    buckets = [
        (str(bound / unit), float(sum(count for end, count in counts.items() if end <= bound)))
        for bound in bounds
    ]
    buckets.append(("+Inf", float(sum(counts.values()))))
    return HistogramMetricFamily(name, text, buckets, total / unit)
