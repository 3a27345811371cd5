"""Samples, pairs and checks; the cases and how they are run, without peers or sockets."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import machine, run
from benchmarks.bench import CASES, Bench, Case, Missing, case
from benchmarks.results import Fields, Results, place
from benchmarks.rows import Check, Pairs, Row, Sample, paired, percentile

PROMISED = [*map(str, range(1, 18)), "2b", "11b"]
RUN: Fields = {"date": "2026-01-01T00:00:00+00:00"}

Fill = Callable[[Bench, Row], None]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A quick run that keeps its files in a temporary directory."""
    return Bench(tmp_path, quick=True)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Case]:
    """The cases that a test registers, and no others."""
    registered: dict[str, Case] = {}
    monkeypatch.setattr("benchmarks.bench.CASES", registered)
    return registered


def fine(bench: Bench, row: Row) -> None:
    row.sides = {"armin": [Sample(100, 1.0)], "peer": [Sample(50, 1.0)]}
    row.checks.append(Check("operations a second", [2.0], 1.5))


def missing(bench: Bench, row: Row) -> None:
    row.checks.append(Check("half done", [1.0]))
    raise Missing("peerdb is not installed (pip install peerdb)")


def failing(bench: Bench, row: Row) -> None:
    raise ZeroDivisionError("nothing was done")


# --- samples, percentiles, pairs ------------------------------------------------------------------------


def test_a_rate_is_operations_over_seconds() -> None:
    assert Sample(300, 1.5).rate == 200


@pytest.mark.parametrize(
    ("share", "count", "rank"),
    [
        (0.5, 1, 1),
        (0.5, 4, 2),
        (0.5, 5, 3),
        (0.99, 10, 10),
        (0.99, 100, 99),
        (0.99, 101, 100),
        (0.999, 999, 999),
        (0.999, 1000, 999),
        (0.07, 100, 7),  # the product is a little above 7 in floating point
        (0.0, 3, 1),
        (1.0, 3, 3),
    ],
)
def test_a_percentile_is_the_nearest_rank(share: float, count: int, rank: int) -> None:
    values = list(range(count, 0, -1))  # in no order that would help
    assert percentile(values, share) == rank


def test_latencies_are_asked_for_by_the_name_of_the_percentile() -> None:
    sample = Sample(1000, 1.0, [n / 1000 for n in range(1, 1001)])
    assert [sample.latency(name) for name in ("p50", "p99", "p99.9")] == [0.5, 0.99, 0.999]


def test_pairs_are_measured_in_turn_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> Sample:
        order.append(name)
        return Sample(len(order), 1.0)

    pairs = paired(lambda: side("A"), lambda: side("B"), 3, warm_up=2)
    assert order == ["A", "B"] * 5
    assert [sample.operations for sample in pairs.ours] == [5, 7, 9]
    assert [sample.operations for sample in pairs.theirs] == [6, 8, 10]


def test_ratios_are_those_of_neighbours() -> None:
    ours = [Sample(10, 1.0, [1.0]), Sample(90, 1.0, [6.0])]
    theirs = [Sample(20, 1.0, [2.0]), Sample(30, 1.0, [2.0])]
    pairs = Pairs(ours, theirs)
    assert pairs.rate_ratios() == [0.5, 3.0]
    assert pairs.latency_ratios("p50") == [0.5, 3.0]


# --- checks ---------------------------------------------------------------------------------------------


def test_a_figure_is_the_median_of_its_values() -> None:
    values = [9.0, 1.0, 2.0, 8.0]
    assert Check("x", values).figure == statistics.median(values) == 5.0


@pytest.mark.parametrize(
    ("figure", "at_most", "met"),
    [
        (1.9, False, False),
        (2.0, False, True),
        (2.1, False, True),
        (1.9, True, True),
        (2.0, True, True),
        (2.1, True, False),
    ],
)
def test_a_bound_is_met_up_to_itself(figure: float, at_most: bool, met: bool) -> None:
    assert Check("x", [figure], 2.0, at_most).met is met


def test_a_figure_that_is_held_to_nothing_is_neither_met_nor_unmet() -> None:
    assert Check("x", [1.0]).met is None


# --- cases ----------------------------------------------------------------------------------------------


def test_every_promised_row_has_its_case() -> None:
    registered = run.load()
    assert [number for number in PROMISED if number not in registered] == []
    assert list(registered) == sorted(registered, key=place)
    assert registered == CASES


def test_rows_stand_in_the_order_of_their_numbers_and_letters_come_last() -> None:
    assert sorted(["K", "11b", "2", "10", "2b", "C", "11"], key=place) == [
        "2",
        "2b",
        "10",
        "11",
        "11b",
        "C",
        "K",
    ]


def test_a_number_is_given_once(registry: dict[str, Case]) -> None:
    case("7", "first")(fine)
    with pytest.raises(AssertionError, match="7"):
        case("7", "second")(fine)


def test_an_unknown_row_is_refused_by_name(registry: dict[str, Case]) -> None:
    case("1", "one")(fine)
    with pytest.raises(run.Refused, match="no row 99; the rows are 1"):
        run.chosen(["1", "99"], registry)


def test_a_missing_peer_makes_a_row_that_says_so(bench: Bench, registry: dict[str, Case]) -> None:
    case("1", "one")(missing)
    row = run.measured(registry["1"], bench)
    assert row["missing"] == "peerdb is not installed (pip install peerdb)"
    assert (row["failed"], row["checks"]) == (None, [])


def test_a_failing_case_does_not_stop_the_others(
    bench: Bench, registry: dict[str, Case], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, fill in (("1", failing), ("2", missing), ("3", fine)):
        case(number, "title")(fill)
    results = Results()
    kept: list[list[str]] = []

    def keep() -> None:
        kept.append([row["number"] for row in results.rows])

    assert not run.measure_all(registry.values(), bench, results, RUN, keep)
    assert kept == [["1"], ["1", "2"], ["1", "2", "3"]]  # after each row
    assert [row["failed"] for row in results.rows] == ["ZeroDivisionError: nothing was done", None, None]
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert "nothing was done" in out
    assert "operations a second: 2.00 x, at least 1.50 x: met" in out


def test_a_run_in_which_nothing_fails_is_fine(bench: Bench, registry: dict[str, Case]) -> None:
    for number, fill in (("1", missing), ("2", fine)):
        case(number, "title")(fill)
    assert run.measure_all(registry.values(), bench, Results(), RUN, lambda: None)


def test_a_directory_of_a_case_is_on_the_disk_that_is_measured_and_removed(bench: Bench) -> None:
    with bench.directory() as directory:
        assert directory.parent == bench.root
        (directory / "file").touch()
    assert not directory.exists()


# --- where ----------------------------------------------------------------------------------------------

MOUNTS = """\
/dev/sda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sdb /tmp/disk\\040one xfs rw 0 0
none /tmpother overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "ext4"),
        ("/tmp", "tmpfs"),
        ("/tmp/a", "tmpfs"),
        ("/tmp/disk one/a", "xfs"),
        ("/tmpother", "overlay"),
    ],
)
def test_the_filesystem_is_that_of_the_innermost_mount(path: str, kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert machine.filesystem(Path(path), mounts) == kind


def test_a_directory_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "filesystem", lambda path: "tmpfs")
    with pytest.raises(run.Refused, match="in memory"), run.workplace(tmp_path):
        pass


def test_the_workplace_is_removed_whatever_happens(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    monkeypatch.setattr(machine, "filesystem", lambda path: "ext4")

    def interrupted() -> None:
        with run.workplace(short_dir) as root:
            (root / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(short_dir.iterdir()) == []


def test_a_path_too_deep_for_a_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "filesystem", lambda path: "ext4")
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    with pytest.raises(run.Refused, match="shorter"), run.workplace(deep):
        pass
    assert list(deep.iterdir()) == []


def test_what_takes_part_is_named_even_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISTRIBUTIONS", ("armin", "no-such-distribution"))
    versions = machine.versions()
    assert versions["armin"]
    assert versions["no-such-distribution"] is None
    assert {"python", "libzmq", "sqlite", "redis-server", "nats-server"} <= set(versions)
