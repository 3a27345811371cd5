"""The results' file, the table and the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots, report, run
from benchmarks.bench import Case
from benchmarks.results import Fields, Results
from benchmarks.rows import Check, Row, Sample

MACHINE: Fields = {
    "machine": {
        "processor": "Abacus 3000",
        "cores": 2,
        "memory_bytes": 8 << 30,
        "system": "Linux 6",
        "filesystem": "ext4",
    },
    "versions": {"python": "3.11.0", "hiredis": None},
    "sync_ms": {"median": 0.25, "p99": 1.5},
}


def a_run(**other: Any) -> Fields:
    return {
        "date": "2026-01-01T00:00:00+00:00",
        "command": "python -m benchmarks",
        "quick": False,
        "commit": "0123456789abcdef",
        "dirty": False,
        **MACHINE,
        **other,
    }


def a_row(number: str = "5", name: str = "A", **other: Any) -> Fields:
    latencies = [n / 1000 for n in range(1, 101)]
    row = Row(
        number,
        "ours / theirs",
        [
            Check("appends a second", [1.5, 1.0, 1.25], 1.0),
            Check("p99", [4.0], 2.0, at_most=True),
            Check("memory", [1234.0], unit="MiB"),
        ],
        {
            "armin": [Sample(100, 0.001, latencies), Sample(100, 0.002, latencies)],
            "armin, no keys": [Sample(100, 0.001)],
            "peer | one": [Sample(50, 0.001, latencies)],
        },
        {"sync": "FULL", "message_bytes": 200, "sessions": 1000},
        ["Both were asked nicely."],
    )
    return {**row.as_json(), "run": name, "date": "2026-01-01T00:01:00+00:00", "seconds": 2.5, **other}


def results(*rows: Fields) -> Results:
    return Results({"A": a_run()}, list(rows))


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("\\|", "!").split("|")[1:-1]]


# --- the file -------------------------------------------------------------------------------------------


def test_results_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    kept = results(a_row("2b"), a_row("10"), a_row("2"))
    kept.write(path)
    again = Results.read(path)
    assert (again.runs, again.rows) == (kept.runs, kept.rows)
    assert [row["number"] for row in again.rows] == ["2", "2b", "10"]
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Results.read(tmp_path / "results.json").rows == []


def test_a_row_holds_what_it_was_made_of() -> None:
    row = json.loads(json.dumps(a_row()))
    appends, p99, memory = row["checks"]
    assert (appends["figure"], appends["values"], appends["met"]) == (1.25, [1.5, 1.0, 1.25], True)
    assert (p99["bound"], p99["at_most"], p99["met"]) == (2.0, True, False)
    assert (memory["unit"], memory["bound"], memory["met"]) == ("MiB", None, None)
    armin = row["sides"]["armin"]
    assert (armin["runs"], armin["rate_per_s"], armin["rates_per_s"]) == (2, 75_000, [100_000, 50_000])
    assert armin["latency_ms"] == pytest.approx({"p50": 50.0, "p99": 99.0, "p99.9": 100.0})
    assert "latency_ms" not in row["sides"]["armin, no keys"]


def test_a_run_of_some_rows_replaces_these_alone_and_each_row_names_its_run() -> None:
    kept = results(a_row("1"), a_row("2"))
    name = kept.begin(a_run(command="python -m benchmarks 2"))
    kept.put(a_row("2", name, seconds=9.0))
    assert [(row["number"], row["run"], row["seconds"]) for row in kept.rows] == [
        ("1", "A", 2.5),
        ("2", "B", 9.0),
    ]
    assert list(kept.runs) == ["A", "B"]


def test_a_run_of_which_no_row_is_left_is_forgotten() -> None:
    kept = results(a_row("1"), a_row("2"))
    name = kept.begin(a_run())
    kept.put(a_row("1", name))
    kept.put(a_row("2", name))
    assert list(kept.runs) == ["B"]
    assert kept.begin(a_run()) == "A"


# --- figures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0312, "0.0312"),
        (0.5, "0.5"),
        (1.0, "1.00"),
        (12.34, "12.3"),
        (123.4, "123"),
        (61234.5, "61,234"),
        (0, "0"),
    ],
)
def test_numbers_have_three_digits_or_more(value: float, text: str) -> None:
    assert report.number(value) == text


def test_a_figure_says_between_which_values_it_lies() -> None:
    appends, p99, memory = a_row()["checks"]
    assert report.figure(appends) == "1.25 x (1.00 to 1.50)"
    assert report.figure(memory) == "1,234 MiB"
    assert [report.bound(check) for check in (appends, p99, memory)] == [
        "at least 1.00 x",
        "at most 2.00 x",
        "–",
    ]
    assert report.quantity(30_000, "/s") == "30,000/s"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["armin", "armin, no keys", "echo"], ("armin", "echo")),
        (["armin Worker", "armin AsyncWorker", "bare"], ("armin Worker", "bare")),
        (["a session of 1,000,000", "a session of 1,000"], ("a session of 1,000,000", "a session of 1,000")),
        (["armin"], ("armin", None)),
        ([], (None, None)),
    ],
)
def test_theirs_is_the_first_side_that_is_no_variant_of_ours(
    names: list[str], found: tuple[str | None, str | None]
) -> None:
    assert report.compared({name: {} for name in names}) == found


# --- the page -------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_check() -> None:
    head, _, *lines = report.verdicts(results(a_row())).splitlines()
    first, second, third = map(cells, lines)
    assert cells(head)[:6] == ["#", "case", "what", "figure", "held to", "met"]
    assert first[:6] == [
        "5",
        "ours / theirs",
        "appends a second",
        "1.25 x (1.00 to 1.50)",
        "at least 1.00 x",
        "yes",
    ]
    assert first[6:] == ["armin 75,000/s", "peer ! one 50,000/s", "50.0 / 99.0 / 100", "50.0 / 99.0 / 100"]
    assert second[2:6] == ["p99", "4.00 x", "at most 2.00 x", "**no**"]
    assert third[2:6] == ["memory", "1,234 MiB", "–", "–"]
    assert len({len(cells(line)) for line in (head, *lines)}) == 1


def test_a_row_that_was_not_measured_says_why() -> None:
    missing = Row("3", "beside NATS", missing="nats-py is not installed").as_json()
    failed = Row("4", "beside SQLite", failed="OSError: disk full").as_json()
    rows = [{**row, "run": "A", "date": "", "seconds": 0.1} for row in (missing, failed)]
    page = report.markdown(results(*rows))
    assert "| 3 | beside NATS | **missing**: nats-py is not installed |" in page
    assert "| 4 | beside SQLite | **failed**: OSError: disk full |" in page
    assert "Not measured: 3 (missing), 4 (failed)." in page


def test_the_page_says_what_its_figures_rest_on() -> None:
    page = report.markdown(results(a_row()), ["ratios.png"])
    for said in (
        "1 of 2 bounds are met. Not met: 5 (p99).",
        "![ratios](ratios.png)",
        "Abacus 3000, 2 cores, 8 GiB; Linux 6; ext4",
        "synced in 0.25 ms (median), 1.50 ms (p99)",
        "python 3.11.0, hiredis not here",
        "commit `0123456789ab`\n",
        "again: `python -m benchmarks`",
        "- message bytes: 200",
        "- sessions: 1,000",
        "- Both were asked nicely.",
        "| 5 | armin, no keys | 1 | 100 | 100,000 |  |  |  |",
    ):
        assert said in page, said


def test_a_page_of_several_runs_says_which_row_is_of_which() -> None:
    mixed = Results({"A": a_run(), "B": a_run(quick=True, dirty=True)}, [a_row("1"), a_row("2", "B")])
    page = report.markdown(mixed)
    lines = [cells(line) for line in report.verdicts(mixed).splitlines()]
    assert lines[0][-1] == "run"
    assert {(line[0], line[-1]) for line in lines[2:]} == {("1", "A"), ("2", "B")}
    assert "quick: a look, not a measurement" in page
    assert "with changes that are not committed" in page


def test_a_terminal_is_told_what_is_met_and_what_is_not() -> None:
    title, *lines = (line.plain for line in run.said(a_row()))
    assert title == "  5  ours / theirs  2 s"
    assert lines == [
        "     appends a second: 1.25 x (1.00 to 1.50), at least 1.00 x: met",
        "     p99: 4.00 x, at most 2.00 x: NOT MET",
        "     memory: 1,234 MiB",
    ]


# --- pictures -------------------------------------------------------------------------------------------


def test_ratios_that_are_held_to_something_are_drawn_first_and_other_units_not_at_all() -> None:
    row = a_row()
    row["checks"].insert(0, {**row["checks"][0], "what": "unheld", "bound": None, "met": None})
    assert [line.label for line in plots.ratios([row])] == [
        "5: appends a second / peer | one",
        "5: p99 / peer | one",
        "5: unheld / peer | one",
    ]


def test_latencies_are_drawn_under_the_title_of_their_row() -> None:
    lines = plots.latencies([a_row()])
    assert [line.label for line in lines] == ["5: ours / theirs", "armin", "peer | one"]
    assert [line.is_ours for line in lines if line.fields] == [True, False]


def test_pictures_are_drawn_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plots.draw([a_row()], tmp_path) == [plots.RATIOS, plots.LATENCIES]
    assert all(
        (tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in (plots.RATIOS, plots.LATENCIES)
    )


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert plots.draw([], tmp_path) == []


# --- the command ----------------------------------------------------------------------------------------


def quick_case(number: str) -> Case:
    return Case(number, "title", lambda bench: Row(number, "title", [Check("x", [2.0], 1.0)]))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> Any:
    """The command with two cases that take no time; gives its exit code."""
    cases = {number: quick_case(number) for number in ("1", "2")}
    monkeypatch.setattr(run, "load", lambda: cases)
    monkeypatch.setattr("benchmarks.machine.filesystem", lambda path: "ext4")
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)

    def call(*arguments: str) -> int:
        return run.main([*arguments, "--directory", str(short_dir), "--out", str(short_dir / "out")])

    return call


def test_the_command_measures_all_and_then_single_rows_into_the_same_report(
    command: Any, short_dir: Path
) -> None:
    out = short_dir / "out"
    assert command("--quick") == 0
    first = Results.read(out / run.RESULTS)
    assert [(row["number"], row["run"]) for row in first.rows] == [("1", "A"), ("2", "A")]
    assert first.runs["A"]["command"] == "python -m benchmarks --quick"
    assert {"date", "commit", "dirty", "machine", "versions", "sync_ms"} <= set(first.runs["A"])

    assert command("2") == 0
    second = Results.read(out / run.RESULTS)
    assert [(row["number"], row["run"]) for row in second.rows] == [("1", "A"), ("2", "B")]
    assert [each["quick"] for each in second.runs.values()] == [True, False]
    assert "2 of 2 bounds are met." in (out / run.REPORT).read_text()
    assert [each.name for each in short_dir.iterdir()] == ["out"]


def test_the_command_lists_its_rows(
    command: Any, capsys: pytest.CaptureFixture[str], short_dir: Path
) -> None:
    assert command("--list") == 0
    assert capsys.readouterr().out == "  1  title\n  2  title\n"
    assert not (short_dir / "out").exists()


def test_the_command_refuses_a_row_that_is_not_there(
    command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("7") == run.EXIT_USAGE
    assert "no row 7" in capsys.readouterr().err


def test_the_command_fails_at_the_end_where_a_row_failed(
    command: Any, monkeypatch: pytest.MonkeyPatch, short_dir: Path
) -> None:
    def broken(bench: Any) -> Row:
        raise OSError("disk full")

    monkeypatch.setattr(run, "load", lambda: {"1": Case("1", "title", broken), "2": quick_case("2")})
    assert command() == run.EXIT_FAILED
    rows = Results.read(short_dir / "out" / run.RESULTS).rows
    assert [row["failed"] for row in rows] == ["OSError: disk full", None]
